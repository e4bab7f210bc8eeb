import { refusalSentence } from '@ferry/events/sentences'
import type { RequestRefusal } from '@ferry/schemas/refusal'
import { parse } from '@ferry/schemas/parse'
import { Answer } from '@ferry/schemas/request'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'

const test = suite('a refusal in words')

const hosts = Array.from({ length: 60 }, (_, at) => `${'rack'.repeat(30)}${at + 1}`)
const long: readonly RequestRefusal[] = [
  {
    type: 'NoTarget',
    vm: 'web1',
    considered: hosts.map((host) => ({ host, unfit: { type: 'HostSilent', host } })),
  },
  { type: 'GuestOnSeveralHosts', vm: 'web1', hosts },
  { type: 'LogBehind', who: hosts, position: 7 },
  { type: 'HostsSilent', hosts },
  { type: 'GuestUnclear', vm: 'web1', copies: hosts.map((host) => ({ host, state: 'sent' })) },
]

for (const refusal of long)
  test(`fits its answer however many hosts there are: ${refusal.type}`, () => {
    const sentence = refusalSentence(refusal)
    parse(Answer, { accepted: false, refusal, sentence }, 'the answer')
    assert.match(sentence, ` ${hosts[4]}`)
    assert.not.match(sentence, `${hosts[5]}`)
    assert.match(sentence, 'and 55 others')
  })

test('names every host of a few, and never stands for one by a number', () => {
  const silent = (many: number) =>
    refusalSentence({ type: 'HostsSilent', hosts: ['a', 'b', 'c', 'd', 'e', 'f'].slice(0, many) })
  assert.match(silent(1), /^a has not said/)
  assert.match(silent(2), /^a and b have not said/)
  assert.match(silent(6), /^a and b and c and d and e and f have not said/)
})

test.run()
