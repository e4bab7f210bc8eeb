/** libvirt's numbers by name, as far as they are needed (`libvirt-domain.h`, `virterror.h`). */

export const MigrateFlag = {
  live: 1,
  paused: 1 << 5,
  nonSharedDisk: 1 << 6,
  autoConverge: 1 << 13,
  postCopy: 1 << 15,
  parallel: 1 << 17,
} as const

export const DomainState = {
  running: 1,
  blocked: 2,
  paused: 3,
  shutOff: 5,
  asleep: 7,
} as const

/** Why a domain is paused: `migration` on both hosts, as long as an image is on its way; `user`, who asked for it. */
export const PausedFor = {
  user: 1,
  migration: 2,
  startingUp: 11,
  postCopy: 12,
  postCopyFailed: 13,
} as const
export const RunningFor = { postCopy: 10, postCopyFailed: 11 } as const

export const Change = { suspended: 3, resumed: 4, stopped: 5 } as const
/** Why a domain has stopped. */
export const StoppedBy = { user: 1, migration: 3 } as const

export const JobType = { none: 0, completed: 3 } as const
/** Of a job that is over, and may be asked for again. */
export const JobNumbers = { completed: 1, keepCompleted: 2 } as const
/** What a job is about, by its number `operation`. */
export const Operation = { migrationOut: 5 } as const

export const Code = {
  invalidArgument: 8,
  noDomain: 42,
  operationInvalid: 55,
  migrateUnsafe: 81,
  operationUnsupported: 84,
} as const

export const Feature = { migrationParameters: 13 } as const

export const Listing = { all: 0, active: 1 } as const
export const Description = { secure: 1, inactive: 2 } as const
export const MetadataIs = { element: 2 } as const
export const Affects = { live: 1 } as const
/** What belongs to a guest goes where the guest goes: what its next host reads is kept. */
export const Undefine = { keepNvram: 8, keepTpm: 64 } as const
