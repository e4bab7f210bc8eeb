/**
 * What `xl migrate` (S) and `xl migrate-receive` (T) say to each other (`tools/xl/xl.h` and `xl_migrate.c` of Xen 4.17,
 * and seen on the wire). Ferry lets neither hear the other: to each of them it is the other end.
 *
 *     T  banner                       54 bytes
 *     S  header, config, image        `image-scan.ts` knows where it ends
 *     T  ready                        34 bytes: all is loaded, the guest stands as NAME--incoming
 *     S  go                           44 bytes: its own guest stands suspended as NAME--migratedaway
 *     T  report                       39 bytes and a status
 *
 * A driver ends both of them before `go` is passed on: what is left then hangs on no process.
 */
export const banner = Buffer.from('xl migration receiver ready, send binary domain data.\n')
export const ready = Buffer.from('domain received, ready to unpause\0')
export const go = Buffer.from('domain is yours, you are cleared to unpause\0')

/** xl's names for the two copies of a guest that is between two hosts. */
export const incoming = (vm: string): string => `${vm}--incoming`
export const migratedAway = (vm: string): string => `${vm}--migratedaway`

/** Whose copy a domain is, by its name. */
export type Role = 'home' | 'incoming' | 'away'

export function roleOf(name: string): { readonly vm: string; readonly role: Role } {
  if (name.endsWith(incoming('')))
    return { vm: name.slice(0, -incoming('').length), role: 'incoming' }
  if (name.endsWith(migratedAway('')))
    return { vm: name.slice(0, -migratedAway('').length), role: 'away' }
  return { vm: name, role: 'home' }
}
