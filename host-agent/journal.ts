import type { EventOf } from '@ferry/schemas/event'
import type { Entry } from '@ferry/events/entry'
import { answersTo, isFactName } from '@ferry/events/phases'
import type { CommandName, FactName, Role } from '@ferry/events/phases'

/**
 * What this host has already said, folded from its own facts in the log: nothing of it is kept anywhere else. It
 * gives a repeated command its first answer (I7), and it is the fence: of each guest only the present attempt is
 * obeyed, and of an attempt that is over nothing.
 */
export type Journal = {
  /** To be told of each of this host's own facts, in the order of the log. */
  readonly note: (entry: Entry) => void
  readonly judge: (command: EventOf<CommandName>) => Ruling
  readonly hasStarted: (start: string) => boolean
  /** The position of the last fact. */
  readonly upTo: () => number
}

export type Ruling =
  | 'obey'
  /** This host has answered: the fact stands in the log. */
  | 'answered'
  /** A later attempt has begun, or this one is over for this host. */
  | 'superseded'

type Attempted = { readonly admission: number; readonly said: Set<FactName> }

/** After these a host has nothing more to do with an attempt. */
const last: readonly FactName[] = ['SourceReleased', 'SourceResumed', 'SourceLost', 'TargetCleared']

/** @param noted is told the position of each. */
export function journal(noted: (position: number) => void = () => {}): Journal {
  const attempts = new Map<string, Attempted>()
  const starts = new Set<string>()
  let upTo = 0

  return {
    note: ({ message, position }) => {
      upTo = Math.max(upTo, position)
      noted(position)
      if (message.is !== 'event') return
      const { event } = message
      if (event.type === 'GuestStarted' || event.type === 'StartRefused')
        starts.add(event.data.start)
      if (!('admission' in event.data) || !('vm' in event) || !isFactName(event.type)) return
      const { admission } = event.data
      const known = attempts.get(event.vm)
      if (known === undefined || known.admission < admission)
        attempts.set(event.vm, { admission, said: new Set([event.type]) })
      else if (known.admission === admission) known.said.add(event.type)
    },

    judge: (command) => {
      const known = attempts.get(command.vm)
      const { admission } = command.data
      if (known === undefined || known.admission < admission) return 'obey'
      if (known.admission > admission) return 'superseded'
      if (answersTo(command.type, roleOf(command)).some((answer) => known.said.has(answer)))
        return 'answered'
      return last.some((fact) => known.said.has(fact)) ? 'superseded' : 'obey'
    },

    hasStarted: (start) => starts.has(start),
    upTo: () => upTo,
  }
}

/** Which part the host plays that a command is for. */
export function roleOf(command: EventOf<CommandName>): Role {
  switch (command.type) {
    case 'Begin':
    case 'Perform':
    case 'Confirm':
      return 'source'
    case 'Prepare':
    case 'Finish':
      return 'target'
    case 'Cancel':
      return command.data.role
  }
}
