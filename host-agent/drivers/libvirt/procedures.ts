import {
  XdrInvalid,
  double,
  fixed,
  hyper,
  int,
  list,
  nothing,
  opaque,
  optional,
  struct,
  text,
  uint,
  unsignedHyper,
} from './xdr.ts'
import type { Codec, ValueOf } from './xdr.ts'

/**
 * libvirt's remote program, as far as it is needed: a number, what goes in and what comes out. The numbers and shapes are
 * those of libvirt's `remote_protocol.x`, which only ever grows: an older or newer daemon understands the same words.
 * The five phases of a migration (302 to 307) are there since libvirt 1.1.0.
 */
export const PROGRAM = 0x2000_8086
/** What only its QEMU driver has, in a program of its own (`qemu_protocol.x`). */
export const QEMU_PROGRAM = 0x2000_8087
export const KEEPALIVE_PROGRAM = 0x6b65_6570
export const PROTOCOL_VERSION = 1

const MOST_TEXT = 4 * 1024 ** 2
const MOST_COOKIE = 4 * 1024 ** 2
const MOST_DOMAINS = 16_384
const MOST_PARAMETERS = 64
const MOST_JOB_NUMBERS = 64
const MOST_AUTHS = 20

const words = text(MOST_TEXT)

/** What libvirtd tells libvirtd on the other host: XML with a zero behind it, or nothing at all. */
const cookieBytes = opaque(MOST_COOKIE)
const cookie: Codec<string> = {
  write: (value, to) => cookieBytes.write(Buffer.from(value === '' ? '' : `${value}\0`), to),
  read: (from) => cookieBytes.read(from).toString('utf8').replace(/\0$/, ''),
}

export const domain = struct({ name: words, uuid: fixed(16), id: int })
export type Domain = ValueOf<typeof domain>

/** A value with its type, as libvirt numbers types. */
export type Parameter =
  | { readonly field: string; readonly is: 'int' | 'uint' | 'double'; readonly value: number }
  | { readonly field: string; readonly is: 'llong' | 'ullong'; readonly value: bigint }
  | { readonly field: string; readonly is: 'boolean'; readonly value: boolean }
  | { readonly field: string; readonly is: 'string'; readonly value: string }

const kinds = ['int', 'uint', 'llong', 'ullong', 'double', 'boolean', 'string'] as const

const parameter: Codec<Parameter> = {
  write: (it, to) => {
    words.write(it.field, to)
    int.write(kinds.indexOf(it.is) + 1, to)
    switch (it.is) {
      case 'int':
        return int.write(it.value, to)
      case 'uint':
        return uint.write(it.value, to)
      case 'double':
        return double.write(it.value, to)
      case 'llong':
        return hyper.write(it.value, to)
      case 'ullong':
        return unsignedHyper.write(it.value, to)
      case 'boolean':
        return int.write(it.value ? 1 : 0, to)
      case 'string':
        return words.write(it.value, to)
    }
  },
  read: (from) => {
    const field = words.read(from)
    const type = int.read(from)
    const is = kinds[type - 1]
    if (is === undefined) throw new XdrInvalid(`${field} is of type ${type}, which nobody knows`)
    switch (is) {
      case 'int':
        return { field, is, value: int.read(from) }
      case 'uint':
        return { field, is, value: uint.read(from) }
      case 'double':
        return { field, is, value: double.read(from) }
      case 'llong':
        return { field, is, value: hyper.read(from) }
      case 'ullong':
        return { field, is, value: unsignedHyper.read(from) }
      case 'boolean':
        return { field, is, value: int.read(from) !== 0 }
      case 'string':
        return { field, is, value: words.read(from) }
    }
  },
}
const parameters = list(parameter, MOST_PARAMETERS)

const about = struct({ domain })
const flagged = struct({ domain, flags: uint })

export type Procedure<Takes, Gives> = {
  /** Absent: the remote program. */
  readonly program?: typeof QEMU_PROGRAM
  readonly number: number
  readonly takes: Codec<Takes>
  readonly gives: Codec<Gives>
}

export const procedures = {
  connectOpen: { number: 1, takes: struct({ uri: optional(words), flags: uint }), gives: nothing },
  version: { number: 4, takes: nothing, gives: struct({ version: unsignedHyper }) },
  capabilities: { number: 7, takes: nothing, gives: struct({ xml: words }) },
  create: { number: 9, takes: about, gives: nothing },
  createXml: { number: 10, takes: struct({ xml: words, flags: uint }), gives: about },
  destroy: { number: 12, takes: about, gives: nothing },
  describe: { number: 14, takes: flagged, gives: struct({ xml: words }) },
  autostart: { number: 15, takes: about, gives: struct({ isOn: int }) },
  lookUp: { number: 23, takes: struct({ name: words }), gives: about },
  resume: { number: 28, takes: about, gives: nothing },
  suspend: { number: 34, takes: about, gives: nothing },
  supports: { number: 60, takes: struct({ feature: int }), gives: struct({ isSupported: int }) },
  authentications: { number: 66, takes: nothing, gives: struct({ types: list(int, MOST_AUTHS) }) },
  authenticateByPolkit: { number: 70, takes: nothing, gives: struct({ isComplete: int }) },
  isPersistent: { number: 151, takes: about, gives: struct({ isPersistent: int }) },
  libraryVersion: { number: 157, takes: nothing, gives: struct({ version: unsignedHyper }) },
  abortJob: { number: 164, takes: about, gives: nothing },
  setMaxDowntime: {
    number: 166,
    takes: struct({ domain, downtimeMs: unsignedHyper, flags: uint }),
    gives: nothing,
  },
  blockInfo: {
    number: 194,
    takes: struct({ domain, path: words, flags: uint }),
    gives: struct({
      allocationBytes: unsignedHyper,
      capacityBytes: unsignedHyper,
      physicalBytes: unsignedHyper,
    }),
  },
  setMaxSpeed: {
    number: 207,
    takes: struct({ domain, mebibytesPerSecond: unsignedHyper, flags: uint }),
    gives: nothing,
  },
  state: { number: 212, takes: flagged, gives: struct({ state: int, reason: int }) },
  undefine: { number: 231, takes: flagged, gives: nothing },
  setMetadata: {
    number: 264,
    takes: struct({
      domain,
      type: int,
      metadata: optional(words),
      key: optional(words),
      uri: optional(words),
      flags: uint,
    }),
    gives: nothing,
  },
  /** For one that Xen has suspended, and libvirtd has met so when it started. */
  wakeUp: { number: 267, takes: flagged, gives: nothing },
  domains: {
    number: 273,
    takes: struct({ wantsResults: int, flags: uint }),
    gives: struct({ domains: list(domain, MOST_DOMAINS), count: uint }),
  },
  jobNumbers: {
    number: 298,
    takes: flagged,
    gives: struct({ type: int, numbers: list(parameter, MOST_JOB_NUMBERS) }),
  },
  begin: {
    number: 302,
    takes: struct({ domain, parameters, flags: uint }),
    gives: struct({ cookie, xml: words }),
  },
  prepare: {
    number: 303,
    takes: struct({ parameters, cookie, flags: uint }),
    gives: struct({ cookie, uri: optional(words) }),
  },
  perform: {
    number: 305,
    takes: struct({ domain, otherUri: optional(words), parameters, cookie, flags: uint }),
    gives: struct({ cookie }),
  },
  finish: {
    number: 306,
    takes: struct({ parameters, cookie, flags: uint, isCancelled: int }),
    gives: struct({ domain, cookie }),
  },
  confirm: {
    number: 307,
    takes: struct({ domain, parameters, cookie, flags: uint, isCancelled: int }),
    gives: nothing,
  },
  watch: {
    number: 316,
    takes: struct({ event: int, domain: optional(domain) }),
    gives: struct({ callback: int }),
  },
  /** A command of QMP and its answer; libvirt marks the guest as tainted for it. */
  tellMonitor: {
    program: QEMU_PROGRAM,
    number: 1,
    takes: struct({ domain, command: words, flags: uint }),
    gives: struct({ answer: words }),
  },
  watchMonitor: {
    program: QEMU_PROGRAM,
    number: 4,
    takes: struct({ domain: optional(domain), event: optional(words), flags: uint }),
    gives: struct({ callback: int }),
  },
  domainCapabilities: {
    number: 342,
    takes: struct({
      emulator: optional(words),
      architecture: optional(words),
      machine: optional(words),
      type: optional(words),
      flags: uint,
    }),
    gives: struct({ xml: words }),
  },
  startPostCopy: { number: 364, takes: flagged, gives: nothing },
  define: { number: 350, takes: struct({ xml: words, flags: uint }), gives: about },
} as const

/** What a daemon says unasked, once it was told to: `watch` is for `event`, and `number` is how it then comes. */
export const events = {
  lifecycle: {
    program: PROGRAM,
    event: 0,
    number: 318,
    gives: struct({ callback: int, domain, change: int, detail: int }),
  },
  round: {
    program: PROGRAM,
    event: 20,
    number: 359,
    gives: struct({ callback: int, domain, iteration: int }),
  },
  /** QEMU's own word, with its own time; `watchMonitor` is for a name. */
  monitor: {
    program: QEMU_PROGRAM,
    event: undefined,
    number: 6,
    gives: struct({
      callback: int,
      domain,
      name: words,
      seconds: hyper,
      microseconds: uint,
      details: optional(words),
    }),
  },
} as const

export type EventName = keyof typeof events
export type EventOf<Name extends EventName> = ValueOf<(typeof events)[Name]['gives']>

/** `virNetMessageError`: what a reply carries instead of a result. */
export const failure = struct({
  code: int,
  domain: int,
  message: optional(words),
  level: int,
  about: optional(domain),
  text1: optional(words),
  text2: optional(words),
  text3: optional(words),
  number1: int,
  number2: int,
  network: optional(struct({ name: words, uuid: fixed(16) })),
})
