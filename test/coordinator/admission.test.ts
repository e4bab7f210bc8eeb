import { admit, candidatesFor } from '@ferry/coordinator/decide/admission'
import { note } from '@ferry/events/fleet'
import type { Event } from '@ferry/schemas/event'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { entryOf } from '../long-log.ts'
import { migrationIn, placed, tell, worldAfter } from '../story.ts'
import { admitted, hostReported, needs, requested } from '../events/examples.ts'

const GiB = 1024 ** 3
const source = hostReported('rack1', [
  { vm: 'web1', state: 'running' },
  { vm: 'web2', state: 'running' },
  { vm: 'web3', state: 'running' },
])

function admission(vm: string, limits: object, ...events: Event[]) {
  const told = tell(...events)
  const rules = { limits: { perSource: 2, perTarget: 2, fleet: 20, ...limits } }
  return admit(told.fleet, migrationIn(told, vm), worldAfter(told, 0, rules))
}

const slot = (vm: string, migration: string, target = 'rack2') => [
  requested({ vm, migration }),
  admitted({ vm, migration, target }),
]

test('the host with the most room is chosen', () => {
  const small = hostReported('rack2', [], { memoryBytes: 2 * GiB })
  const large = hostReported('rack3', [], { memoryBytes: 8 * GiB })
  assert.equal(admission('web1', {}, source, small, large, requested()), { target: 'rack3' })
})

test('what is on its way to a host is taken off its room', () => {
  const tight = hostReported('rack2', [], { memoryBytes: GiB * 1.5 })
  const answer = admission('web1', {}, source, tight, ...slot('web2', 'm2'), requested())
  assert.equal(answer, {
    unfit: [
      { host: 'rack2', unfit: { type: 'NotEnoughMemory', neededBytes: GiB, freeBytes: GiB / 2 } },
    ],
  })
})

test('room that is taken meanwhile is missed at the next look', () => {
  const told = tell(source, hostReported('rack2', [], { memoryBytes: 2 * GiB }), requested())
  const freeBytes = () => {
    const wish = { vm: 'web1', source: 'rack1' }
    return candidatesFor(told.fleet, wish, needs, worldAfter(told, 0)).map((each) => each.freeBytes)
  }
  assert.equal(freeBytes(), [2 * GiB])
  for (const event of slot('web2', 'm2'))
    note(told.fleet, entryOf(placed(event, told.fleet), told.fleet.position + 1))
  assert.equal(freeBytes(), [GiB])
})

test('what a guest has itself on a host is not missed there', () => {
  const told = tell(source, hostReported('rack2', [{ vm: 'web1', state: 'paused' }]))
  const wish = { vm: 'web1', source: 'rack1' }
  const [found] = candidatesFor(told.fleet, wish, needs, worldAfter(told, 0))
  assert.is(found?.freeBytes, told.fleet.hosts.get('rack2')?.report.memoryBytes)
})

test('each limit says that it is the one, and who stands in it', () => {
  const events = [source, hostReported('rack2'), ...slot('web2', 'm2'), requested()]
  assert.equal(admission('web1', { fleet: 1 }, ...events), {
    blockedBy: { limit: '1 in the fleet', holders: ['m2'] },
  })
  assert.equal(admission('web1', { perSource: 1 }, ...events), {
    blockedBy: { limit: '1 out of rack1', holders: ['m2'] },
  })
  assert.equal(admission('web1', { perTarget: 1 }, ...events), {
    blockedBy: { limit: '1 into rack2', holders: ['m2'] },
  })
  assert.equal(admission('web1', {}, ...events), { target: 'rack2' })
})

test('a busy target leaves the guest to another host', () => {
  const events = [
    source,
    hostReported('rack2'),
    hostReported('rack3', [], { memoryBytes: 2 * GiB }),
  ]
  assert.equal(admission('web1', { perTarget: 1 }, ...events, ...slot('web2', 'm2'), requested()), {
    target: 'rack3',
  })
})

test('whatever speaks against a host is named', () => {
  const { fleet, entries, rulings } = tell(
    source,
    hostReported('a', [], { hypervisor: 'xen' }),
    hostReported('b', [], { machines: [] }),
    hostReported('c', [], { cpuModels: [] }),
    hostReported('d', [], { accelerators: [] }),
    hostReported('e', [{ vm: 'web1', state: 'paused' }]),
    hostReported('f', [], { memoryBytes: 1 }),
    hostReported('g'),
  )
  const world = {
    ...worldAfter({ fleet, entries, rulings }, 0),
    alive: new Set(['a', 'b', 'c', 'd', 'e', 'f']),
    known: new Set(['a', 'b', 'c', 'd', 'e', 'f']),
  }
  const found = candidatesFor(fleet, { vm: 'web1', source: 'rack1' }, needs, world)
  assert.equal(
    found.map(({ unfit }) => unfit?.type),
    [
      'OtherHypervisor',
      'MachineUnsupported',
      'CpuUnsupported',
      'AcceleratorUnsupported',
      'GuestAlreadyHere',
      'NotEnoughMemory',
      'HostSilent',
    ],
  )
})

test('a guest that has the CPU of its host goes only where there is the same one', () => {
  const told = tell(
    hostReported('rack1', [{ vm: 'web1', state: 'running' }], { cpu: 'EPYC 1' }),
    hostReported('rack2', [], { cpu: 'EPYC 1', cpuModels: ['host'] }),
    hostReported('rack3', [], { cpu: 'Xeon', cpuModels: ['host'] }),
  )
  const found = candidatesFor(
    told.fleet,
    { vm: 'web1', source: 'rack1' },
    { ...needs, cpu: 'host' },
    worldAfter(told, 0),
  )
  assert.equal(
    found.map(({ host, unfit }) => [host, unfit?.type]),
    [
      ['rack2', undefined],
      ['rack3', 'CpuUnsupported'],
    ],
  )
})

test.run()
