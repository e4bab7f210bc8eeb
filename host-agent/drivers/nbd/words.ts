/**
 * The words of NBD, as far as QEMU needs them to write to a disk that lies elsewhere. Numbers and shapes are those of
 * https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md; all numbers stand with the high byte first.
 */
export const GREETING = Buffer.from('NBDMAGICIHAVEOPT')
/** Both ends: options one by one, and no zeros behind what they say. */
export const PLAIN = 1 | 2

export const OPTION = Buffer.from('IHAVEOPT')
/** IHAVEOPT, option, length. */
export const OPTION_BYTES = 16
export const Option = { abort: 2, go: 7 } as const

export const ANSWER = Buffer.from('0003e889045565a9', 'hex')
/** The magic number, option, kind of answer, length. */
export const ANSWER_BYTES = 20
export const Answer = { ack: 1, info: 3, unsupported: 2 ** 31 + 1, unknown: 2 ** 31 + 6 } as const
/** The one piece of information that every export has: its size and what it can do. */
export const INFO_EXPORT = 0
export const INFO_EXPORT_BYTES = 12

/** What an export can do: flush, write with all on disk before the answer, trim, write zeros. */
export const CAN = 1 | (1 << 2) | (1 << 3) | (1 << 5) | (1 << 6)

export const REQUEST = 0x2560_9513
/** The magic number, flags, command, cookie, offset, length. */
export const REQUEST_BYTES = 28
export const Command = { write: 1, hangUp: 2, flush: 3, trim: 4, zeroes: 6 } as const
/** Of a command to write zeros: the room is to be kept. */
export const KEEP_ROOM = 2

export const REPLY = 0x6744_6698
/** The magic number, error, cookie. */
export const REPLY_BYTES = 16
export const COOKIE_BYTES = 8
export const NO_ERROR = 0
export const INVALID = 22

/** QEMU asks for no more in one request. */
export const LONGEST_WRITE_BYTES = 32 * 1024 ** 2
/** No option that is answered here is longer: a name has 4096 bytes at most. */
export const LONGEST_OPTION_BYTES = 8192

/** What came is not NBD, or more of it than is spoken here. */
export class NbdInvalid extends Error {
  override readonly name = 'NbdInvalid'
}
