import { answersTo, isCancellable, isEnded, phases, saidBy } from '@ferry/events/phases'
import type { PhaseName } from '@ferry/events/phases'
import { messages } from '@ferry/schemas/messages'
import { test } from 'uvu'
import * as assert from 'uvu/assert'

const names = Object.keys(phases) as PhaseName[]
const arrows = names.flatMap((from) =>
  Object.entries(phases[from].on).map(([event, to]) => ({ from, event, to })),
)

test('only Committed takes a guest from the source to the target, and only a fence takes it back', () => {
  for (const { from, event, to } of arrows) {
    const before = phases[from].runsOn
    const after = phases[to].runsOn
    if (before !== 'target' && after === 'target') assert.is(event, 'Committed', `${from} to ${to}`)
    if (before === 'target' && after !== 'target') assert.is(event, 'Fenced', `${from} to ${to}`)
  }
})

test('whatever can be cancelled can be committed: both verdicts are obeyed wherever none has been given', () => {
  for (const name of names)
    assert.is(
      phases[name].on.Cancelled !== undefined,
      phases[name].on.Committed !== undefined,
      name,
    )
})

test('a guest that nobody runs is waiting for a verdict', () => {
  for (const name of names)
    if (phases[name].runsOn === 'nobody') assert.ok(isCancellable(name), name)
})

test('every phase can be reached, and every phase leads to an end', () => {
  const reach = (start: PhaseName) => {
    const seen = new Set<PhaseName>([start])
    for (const name of seen) for (const to of Object.values(phases[name].on)) seen.add(to)
    return seen
  }
  assert.is(reach('queued').size, names.length)
  for (const name of names) assert.ok([...reach(name)].some(isEnded), name)
})

test('every question has an answer that may be given where it is asked', () => {
  for (const name of names)
    for (const { command, of, answers } of phases[name].asks)
      for (const answer of answers) {
        assert.is(saidBy[answer], of, `${command}: ${answer}`)
        const { on, notes } = phases[name]
        // What a target says on reading the verdict itself comes behind that verdict, in the next phase.
        const isHeard =
          on[answer] !== undefined || notes.includes(answer) || isHeardBehindVerdict(name, answer)
        assert.ok(isHeard, `${name}: ${answer}`)
      }
})

function isHeardBehindVerdict(
  name: PhaseName,
  answer: (typeof phases)['queued']['notes'][number],
): boolean {
  const behind = Object.values(phases[name].on)
  return behind.some(
    (next) => phases[next].notes.includes(answer) || phases[next].on[answer] !== undefined,
  )
}

test('every command but Start is asked in some phase, and answered', () => {
  for (const [name, { kind, about }] of Object.entries(messages)) {
    if (kind !== 'command' || about !== 'migration') continue
    const roles = ['source', 'target'] as const
    assert.ok(
      roles.some((of) => answersTo(name as 'Begin', of).length > 0),
      name,
    )
  }
})

test.run()
