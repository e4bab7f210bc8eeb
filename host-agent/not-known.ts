import type { Meant } from '@ferry/schemas/cloud-event'
import type { EventOf } from '@ferry/schemas/event'
import { timestamp } from '@ferry/events/clock'
import type { Hands } from './hands.ts'

/** What a host says to a command of a newer release: which it was, and for what it will not be done. */
export function notKnown(
  command: string,
  { id: causationid, vm, ...meant }: Meant,
  { host, clock }: Pick<Hands, 'host' | 'clock'>,
): EventOf<'CommandUnknown' | 'StartRefused'> {
  const envelope = { writer: { host }, time: timestamp(clock.now()), vm, causationid }
  if ('start' in meant)
    return {
      ...envelope,
      id: `${meant.start}.StartRefused`,
      type: 'StartRefused',
      data: { start: meant.start, refusal: { type: 'CommandUnknown', command } },
    }
  const { migration, attempt, admission } = meant
  return {
    ...envelope,
    migration,
    attempt,
    id: `${migration}.${attempt}.CommandUnknown.${command}`,
    type: 'CommandUnknown',
    data: { host, admission, command },
  }
}
