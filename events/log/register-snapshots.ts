import { promisify } from 'node:util'
import { gunzip, gzip } from 'node:zlib'
import { Type } from 'typebox'
import { parse } from '@ferry/schemas/parse'
import type { Digest } from '../snapshot.ts'
import type { Registers } from '../registers.ts'
import { KEPT } from '../snapshots.ts'
import type { Snapshots } from '../snapshots.ts'

/**
 * Snapshots in registers: compressed, and in parts, because a value in NATS has at most a megabyte. The places are
 * fixed and written over by turns, so whatever is broken off leaves nothing behind. The head is written last.
 *
 *     snapshot.<place>.head          { parts }; its revision says which was written last
 *     snapshot.<place>.part.<number> base64
 */
export function registerSnapshots(
  registers: Registers,
  fold: string,
  { pack, unpack, digest }: Packing = onThreads,
): Snapshots {
  const headOf = async (place: string) => ({
    place,
    register: await registers.read(`snapshot.${place}.head`),
  })
  const heads = () => Promise.all(places.map(headOf))
  const part = (place: string, number: number) => `snapshot.${place}.part.${number}`

  return {
    fold,
    ...(digest === undefined ? {} : { digest }),
    list: async () =>
      (await heads())
        .flatMap(({ place, register }) => (register === undefined ? [] : { place, register }))
        .toSorted((a, b) => b.register.revision - a.register.revision)
        .map(({ place }) => place),

    read: async (place) => {
      const { register } = await headOf(place)
      const { parts } = parse(Head, JSON.parse(register?.value ?? 'null'), 'its head')
      const texts: string[] = []
      for (let number = 0; number < parts; number++) {
        const found = await registers.read(part(place, number))
        if (found === undefined) throw new Error(`part ${number} of ${parts} is not there`)
        texts.push(found.value)
      }
      const zipped = Buffer.from(texts.join(''), 'base64')
      return new Uint8Array(await unpack(zipped))
    },

    write: async (snapshot) => {
      const zipped = (await pack(snapshot)).toString('base64')
      const parts = Math.ceil(zipped.length / PART)
      const [oldest] = (await heads()).toSorted(
        (a, b) => (a.register?.revision ?? 0) - (b.register?.revision ?? 0),
      )
      const place = oldest?.place ?? ''
      for (let number = 0; number < parts; number++)
        await registers.put(part(place, number), zipped.slice(number * PART, (number + 1) * PART))
      await registers.put(`snapshot.${place}.head`, JSON.stringify({ parts }))
    },
  }
}

/** What takes long enough to be left to threads. A simulation does it at once, because no seed decides when they end. */
export type Packing = {
  readonly pack: (bytes: Uint8Array) => Promise<Buffer>
  readonly unpack: (bytes: Buffer) => Promise<Buffer>
  readonly digest?: Digest
}

const places = Array.from({ length: KEPT }, (_, number) => String(number))

/** In characters; a server takes a megabyte for each message unless it was set up otherwise. */
const PART = 512 * 1024
/** More than any fleet's state, and less than would fell the process that reads what somebody else put there. */
const MOST_BYTES = 512 * 1024 * 1024

/** Quickly rather than small. */
export const packed = { level: 1 }
export const unpacked = { maxOutputLength: MOST_BYTES }

const [zip, unzip] = [
  promisify<Uint8Array, object, Buffer>(gzip),
  promisify<Buffer, object, Buffer>(gunzip),
]
const onThreads: Packing = {
  pack: (bytes) => zip(bytes, packed),
  unpack: (bytes) => unzip(bytes, unpacked),
}

const Head = Type.Object({ parts: Type.Integer({ minimum: 1, maximum: 1000 }) })
