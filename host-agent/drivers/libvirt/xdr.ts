/**
 * XDR (RFC 4506), as far as libvirt speaks it: everything is big-endian and a multiple of four bytes long. A codec is a
 * description that both writes and reads; whatever is read is bounded before anything is made for it.
 */
export type Codec<T> = {
  write(value: T, to: Buffer[]): void
  read(from: XdrReader): T
}

export type ValueOf<C> = C extends Codec<infer T> ? T : never

/** Bytes, and how far they have been read. */
export type XdrReader = { readonly bytes: Buffer; at: number }

/** What came is not what its description says. */
export class XdrInvalid extends Error {
  override readonly name = 'XdrInvalid'
}

export function encode<T>(codec: Codec<T>, value: T): Buffer {
  const parts: Buffer[] = []
  codec.write(value, parts)
  return Buffer.concat(parts)
}

/** @throws {XdrInvalid} when it is too short, too long, or out of bounds. */
export function decode<T>(codec: Codec<T>, bytes: Buffer): T {
  const from = { bytes, at: 0 }
  const value = codec.read(from)
  if (from.at !== bytes.length)
    throw new XdrInvalid(`${bytes.length - from.at} bytes are left over`)
  return value
}

function take(from: XdrReader, length: number): Buffer {
  const end = from.at + length
  if (end > from.bytes.length)
    throw new XdrInvalid(`${length} bytes are wanted, ${from.bytes.length - from.at} are there`)
  const taken = from.bytes.subarray(from.at, end)
  from.at = end
  return taken
}

function number<T>(
  length: number,
  write: (into: Buffer, value: T) => void,
  read: (from: Buffer) => T,
): Codec<T> {
  return {
    write: (value, to) => {
      const bytes = Buffer.alloc(length)
      write(bytes, value)
      to.push(bytes)
    },
    read: (from) => read(take(from, length)),
  }
}

export const int = number<number>(
  4,
  (into, value) => into.writeInt32BE(value),
  (from) => from.readInt32BE(),
)
export const uint = number<number>(
  4,
  (into, value) => into.writeUInt32BE(value),
  (from) => from.readUInt32BE(),
)
export const hyper = number<bigint>(
  8,
  (into, value) => into.writeBigInt64BE(value),
  (from) => from.readBigInt64BE(),
)
export const unsignedHyper = number<bigint>(
  8,
  (into, value) => into.writeBigUInt64BE(value),
  (from) => from.readBigUInt64BE(),
)
export const double = number<number>(
  8,
  (into, value) => into.writeDoubleBE(value),
  (from) => from.readDoubleBE(),
)

const nothingBytes = Buffer.alloc(0)
const padding = (length: number) => (4 - (length % 4)) % 4

/** Exactly so many bytes. */
export const fixed = (length: number): Codec<Buffer> => ({
  write: (value, to) => {
    if (value.length !== length) throw new XdrInvalid(`${value.length} bytes, not ${length}`)
    to.push(value, Buffer.alloc(padding(length)))
  },
  read: (from) => {
    const taken = take(from, length)
    take(from, padding(length))
    return taken
  },
})

function bounded(length: number, most: number): number {
  if (length > most) throw new XdrInvalid(`a length of ${length}, where at most ${most} may be`)
  return length
}

/** Bytes with their length in front. */
export const opaque = (most: number): Codec<Buffer> => ({
  write: (value, to) => {
    uint.write(bounded(value.length, most), to)
    fixed(value.length).write(value, to)
  },
  read: (from) => fixed(bounded(uint.read(from), most)).read(from),
})

/** Text in UTF-8. */
export const text = (most: number): Codec<string> => {
  const bytes = opaque(most)
  return {
    write: (value, to) => bytes.write(Buffer.from(value), to),
    read: (from) => bytes.read(from).toString('utf8'),
  }
}

export const optional = <T>(codec: Codec<T>): Codec<T | undefined> => ({
  write: (value, to) => {
    uint.write(value === undefined ? 0 : 1, to)
    if (value !== undefined) codec.write(value, to)
  },
  read: (from) => {
    const isThere = uint.read(from)
    if (isThere > 1)
      throw new XdrInvalid(`${isThere} says neither that it is there nor that it is not`)
    return isThere === 1 ? codec.read(from) : undefined
  },
})

export const list = <T>(codec: Codec<T>, most: number): Codec<readonly T[]> => ({
  write: (values, to) => {
    uint.write(bounded(values.length, most), to)
    for (const value of values) codec.write(value, to)
  },
  read: (from) => Array.from({ length: bounded(uint.read(from), most) }, () => codec.read(from)),
})

export const struct = <Fields extends Record<string, unknown>>(fields: {
  readonly [Name in keyof Fields]: Codec<Fields[Name]>
}): Codec<Fields> => {
  const names = Object.keys(fields) as (keyof Fields)[]
  return {
    write: (value, to) => {
      for (const name of names) fields[name].write(value[name], to)
    },
    read: (from) =>
      Object.fromEntries(names.map((name) => [name, fields[name].read(from)])) as Fields,
  }
}

export const nothing: Codec<void> = {
  write: (_, to) => void to.push(nothingBytes),
  read: () => {},
}
