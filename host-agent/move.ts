import type { EventOf } from '@ferry/schemas/event'
import type { Dial } from './dial.ts'
import { finish } from './finish.ts'
import type { MovingHands } from './hands.ts'
import { perform } from './perform.ts'
import type { Command, Fact } from './voice.ts'

/** The commands that move an image: they take long, a paused guest may wait for them, and they may outlive the agent. */
export type Move = EventOf<'Perform' | 'Finish'>

export const isMove = (command: Command): command is Move =>
  command.type === 'Perform' || command.type === 'Finish'

export const move = (
  command: Move,
  hands: MovingHands,
  signal: AbortSignal,
  dial?: Dial,
): Promise<Fact | undefined> =>
  command.type === 'Perform'
    ? perform(command, hands, signal, dial)
    : finish(command, hands, signal)
