import type { EventOf, Writer } from '@ferry/schemas/event'
import type { GuestNeeds } from '@ferry/schemas/guest'
import type { DataOf } from '@ferry/schemas/messages'
import { defaultPolicy } from '@ferry/schemas/policy'

/** Events with good defaults: a test names only what it is about. web1 moves from rack1 to rack2. */

export const needs: GuestNeeds = {
  memoryBytes: 1024 ** 3,
  vcpus: 1,
  hypervisor: 'simulated',
  machine: 'pc',
  cpu: 'qemu64',
  accelerator: 'tcg',
}

const source: Writer = { host: 'rack1' }
const coordinator: Writer = { coordinator: 'c1' }

type Given = { id?: string; vm?: string; migration?: string; attempt?: number; writer?: Writer }

const envelope = (given: Given, writer: Writer, id: string) => ({
  id: given.id ?? id,
  writer: given.writer ?? writer,
  time: '2026-11-23T10:00:00.000Z',
  vm: given.vm ?? 'web1',
  migration: given.migration ?? 'm1',
  attempt: given.attempt ?? 1,
})

export const requested = (
  given: Given & Partial<DataOf<'MigrationRequested'>> = {},
): EventOf<'MigrationRequested'> => ({
  ...envelope(given, coordinator, 'requested'),
  type: 'MigrationRequested',
  data: {
    after: given.after ?? 0,
    source: 'rack1',
    ...(given.target === undefined ? {} : { target: given.target }),
    policy: given.policy ?? defaultPolicy,
    by: 'test',
  },
})

export const sourcePaused = (
  given: Given & { admission?: number } = {},
): EventOf<'SourcePaused'> => ({
  ...envelope(given, source, 'paused'),
  type: 'SourcePaused',
  data: { admission: given.admission ?? 1, pausedAt: 1000 },
})

export const committed = (given: Given & { target?: string } = {}): EventOf<'Committed'> => ({
  ...envelope(given, { host: given.target ?? 'rack2' }, 'committed'),
  type: 'Committed',
  data: {
    after: 0,
    target: given.target ?? 'rack2',
    bytes: 1,
    digest: '0'.repeat(64),
    endFrameAt: 1,
    loadedAt: 1,
  },
})

export const cancelled = (given: Given & { target?: string } = {}): EventOf<'Cancelled'> => ({
  ...envelope(given, coordinator, 'cancelled'),
  type: 'Cancelled',
  data: { after: 0, target: given.target ?? 'rack2', cause: { type: 'Asked', by: 'test' } },
})
