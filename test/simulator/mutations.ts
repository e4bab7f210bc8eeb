/**
 * Deliberate bugs in the safety rules, one line each: the simulator has to find every one of them. `from` stands exactly
 * once in its file, or the list is out of date and says so.
 */
export type Mutation = {
  readonly bug: string
  readonly file: string
  readonly from: string
  readonly to: string
}

export const mutations: readonly Mutation[] = [
  {
    bug: 'a paused source resumes without looking for the verdict',
    file: 'host-agent/duties.ts',
    from: "if (verdict?.type === 'Cancelled') return true",
    to: 'if (verdict === undefined || verdict.type === verdict.type) return true',
  },
  {
    bug: 'the target starts the guest whoever won the verdict',
    file: 'host-agent/finish.ts',
    from: 'return (await contest(log, event, { signal })).won',
    to: 'return (await contest(log, event, { signal })) !== undefined',
  },
  {
    bug: 'the target acts on its verdict before it has read it back',
    file: 'host-agent/finish.ts',
    from: 'const hasWon = await commit(committed(command, hands, receipt), hands, signal)',
    to: 'const hasWon = (commit(committed(command, hands, receipt), hands, signal).catch(() => {}), true)',
  },
  {
    bug: 'an image without its end frame counts as whole',
    file: 'host-agent/transfer/receive.ts',
    from: 'if (!isWhole) return notWhole()',
    to: 'if (!isWhole) void notWhole',
  },
  {
    bug: 'the digest of an image is not looked at',
    file: 'host-agent/transfer/receive.ts',
    from: 'if (came.digest !== sent.digest)',
    to: 'if (came.digest === "")',
  },
  {
    bug: "a transfer's key stands in the log in clear",
    file: 'host-agent/duties.ts',
    from: 'const sealedKey = key.seal(random(KEY_BYTES), sourceKey)',
    to: "const sealedKey = Buffer.from(random(KEY_BYTES)).toString('base64')",
  },
  {
    bug: 'a source is released without TargetRunning',
    file: 'host-agent/duties.ts',
    from: "if ((await said(log, running, 'TargetRunning', command)) === undefined) {",
    to: "if ((await said(log, running, 'TargetRunning', command)) === null) {",
  },
  {
    bug: 'a command of an attempt that is long over is obeyed',
    file: 'host-agent/journal.ts',
    from: "if (known.admission > admission) return 'superseded'",
    to: "if (known.admission > admission) return 'obey'",
  },
  {
    bug: 'the journal is forgotten: what was answered is done again',
    file: 'host-agent/journal.ts',
    from: 'if (known === undefined || known.admission < admission) return',
    to: 'if (true) return',
  },
  {
    bug: 'an order to start that comes twice is carried out twice',
    file: 'host-agent/serve.ts',
    from: 'if (present !== undefined) return void present.push(delivery)',
    to: 'if (present !== undefined) present.push(delivery)',
  },
  {
    bug: 'a writer believes that it won when its message is stored',
    file: 'events/log.ts',
    from: 'return { won: entry.message.event.id === event.id, winner: entry }',
    to: 'return { won: true, winner: entry }',
  },
  {
    bug: 'a decision counts whatever was decided before it',
    file: 'events/guest.ts',
    from: 'if (event.data.after !== guest.head)',
    to: 'if (event.data.after > guest.head)',
  },
  {
    bug: 'an admission counts whatever was admitted before it',
    file: 'events/fleet.ts',
    from: 'if (event.data.after !== fleet.ledger)',
    to: 'if (event.data.after > fleet.ledger)',
  },
  {
    bug: 'a limit is one too large',
    file: 'coordinator/decide/admission.ts',
    from: 'arrivingAt(host).length < limits.perTarget',
    to: 'arrivingAt(host).length <= limits.perTarget',
  },
  {
    bug: 'an answer of another attempt counts for this one',
    file: 'events/migration.ts',
    from: 'if (event.attempt !== attempt.number)',
    to: 'if (event.attempt < 0)',
  },
  {
    bug: 'anybody may say what a host says',
    file: 'events/migration.ts',
    from: "if (!('host' in event.writer) || event.writer.host !== host)",
    to: "if (!('host' in event.writer))",
  },
  {
    bug: 'a recovery does not wait until each host has stopped',
    file: 'coordinator/decide/recover.ts',
    from: 'Math.min(position, report?.stopped ?? 0) < alarmedAt',
    to: 'position < alarmedAt',
  },
  {
    bug: 'a recovery forgets the hosts that the log has forgotten',
    file: 'coordinator/decide/recover.ts',
    from: '...fleet.hosts.keys(), ...world.known, ...alarms.flatMap(({ host }) => host ?? [])',
    to: '...fleet.hosts.keys()',
  },
  {
    bug: 'who waits to leave a host that has only a leftover of the guest is given a slot',
    file: 'coordinator/decide/next-step.ts',
    from: ' && (copy === undefined || isLeftover.has(copy.state))',
    to: ' && copy === undefined',
  },
  {
    bug: 'an inventory does not count behind a verdict',
    file: 'events/guest.ts',
    from: "const isWord = 'host' in event.writer && messages[event.type].kind === 'fact'",
    to: "const isWord = 'host' in event.writer",
  },
  {
    bug: 'a coordinator goes on over a tail that the log has lost',
    file: 'coordinator/same-log.ts',
    from: 'return entry?.position === position && entry.storedAt === storedAt',
    to: 'return entry?.position === position || storedAt > 0',
  },
  {
    bug: 'nobody misses what he has seen in the log',
    file: 'events/log/witness.ts',
    from: 'if (mark.life === known.life && !isMissing(mark, entry)) return',
    to: 'if (mark.life === known.life || !isMissing(mark, entry)) return',
  },
  {
    bug: 'a message counts on any subject',
    file: 'events/entry.ts',
    from: 'if (own === subject) return message',
    to: 'if (own !== undefined) return message',
  },
  {
    bug: 'a target that was told to stop before it took the image waits for a stream that is stalled',
    file: 'host-agent/transfer/arrival.ts',
    from: 'if (signal.aborted) stop()',
    to: 'if (stop === undefined) stop()',
  },
  {
    bug: 'what came directly is committed before its source has said that it was all',
    file: 'host-agent/finish.ts',
    from: 'receipt = await toldDirectly(command, hands, secret, until)',
    to: "receipt = { bytes: 0, digest: '0'.repeat(32) }; toldDirectly(command, hands, secret, until).catch(() => {})",
  },
  {
    bug: 'a target that took an offer starts though its source may break off and run on',
    file: 'host-agent/finish.ts',
    from: 'isOffer === true ? await withdrawnBy(command, hands, signal) : undefined',
    to: 'isOffer === null ? await withdrawnBy(command, hands, signal) : undefined',
  },
  {
    bug: 'what nobody was asked for is left open',
    file: 'coordinator/decide/next-step.ts',
    from: 'const wereAsked = owed.every((each) => migration.attempt.asked[askKey(each)] !== undefined)',
    to: 'const wereAsked = owed.every((each) => askKey(each) !== undefined)',
  },
]
