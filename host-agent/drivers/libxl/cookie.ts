import { hostname } from 'node:os'
import { dashed, valuesAt } from '../libvirt/domain-xml.ts'
import type { Domain } from '../libvirt/procedures.ts'

/**
 * What libvirt's Begin tells the target's Prepare: whose guest it is, and in which version Xen's stream will be. Begin
 * itself holds its job until the guest is gone, or has been resumed; so Ferry writes this when it only asks whether a guest
 * may leave, and compares it with Begin's own when the guest does.
 */
export const cookieOf = ({ name, uuid }: Domain, streamVersion: number): string =>
  [
    '<libxl-migration>',
    `  <name>${escaped(name)}</name>`,
    `  <uuid>${dashed(uuid)}</uuid>`,
    `  <hostname>${escaped(hostname())}</hostname>`,
    `  <migration-stream-version>${streamVersion}</migration-stream-version>`,
    '</libxl-migration>',
    '',
  ].join('\n')

/** @returns 1 where it does not say: such a libvirt knows no other. */
export const streamVersionIn = (cookie: string): number =>
  cookie === '' ? 1 : Number(valuesAt(cookie, ['migration-stream-version'])[0] ?? 1)

const FIRST_XEN_OF_SECOND_STREAM = 4_006_000n

/** Xen has had its second stream since 4.6, and libvirt uses what the Xen beside it has. */
export const streamVersionOf = (xenVersion: bigint): number =>
  xenVersion >= FIRST_XEN_OF_SECOND_STREAM ? 2 : 1

const escaped = (text: string) =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
