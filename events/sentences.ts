import type { Cause, Failure, HostRefusal, RequestRefusal, Unfit } from '@ferry/schemas/refusal'
import type { SnapshotFault } from './snapshot.ts'

/** Every refusal, failure and cause as a sentence for a person: the only place that puts them into words. */

export function refusalSentence(refusal: RequestRefusal): string {
  switch (refusal.type) {
    case 'NotUnderstood':
      return `The request was not understood: ${refusal.path === '' ? 'it' : refusal.path} ${refusal.problem}.`
    case 'UnknownGuest':
      return `No host reports a guest named ${refusal.vm}.`
    case 'GuestNotRunning':
      return `${refusal.vm} does not run: it is ${refusal.state}.`
    case 'GuestOnSeveralHosts':
      return `${refusal.vm} is reported running on ${list(refusal.hosts)}; that must be cleared up before it is moved.`
    case 'AlreadyRunning':
      return `There is a copy of ${refusal.vm} on ${refusal.host} already.`
    case 'AlreadyMigrating':
      return `${refusal.vm} is being moved already, by ${refusal.migration}.`
    case 'StartPending':
      return `${refusal.vm} was ordered to start on ${refusal.host}, which has not answered yet.`
    case 'AlreadyThere':
      return `${refusal.vm} runs on ${refusal.host} already.`
    case 'UnknownHost':
      return `No host named ${refusal.host} has ever reported itself.`
    case 'TargetUnfit':
      return `${refusal.host} cannot take it: ${unfitSentence(refusal.unfit)}.`
    case 'NoTarget':
      return refusal.considered.length === 0
        ? `There is no other host that ${refusal.vm} could go to.`
        : `No host can take ${refusal.vm}: ${few(refusal.considered.map(({ host, unfit }) => `${host}: ${unfitSentence(unfit)}`))}.`
    case 'RequestIdTaken':
      return `The request id ${refusal.request} was used for ${refusal.vm} before; take a new one.`
    case 'UnknownMigration':
      return `There is no migration ${refusal.migration}.`
    case 'TooLateToLimit':
      return `${refusal.migration} is ${refusal.phase}: nothing is copied any more that a limit could hold back.`
    case 'HostOlder':
      return `The agent of ${refusal.host} is of release ${refusal.agentVersion}, which does not know this; upgrade it first.`
    case 'TooLateToCancel':
      return `${refusal.migration} was committed at position ${refusal.committedAt}: the guest belongs to the target.`
    case 'AlreadyEnded':
      return `${refusal.migration} has ended: it was ${refusal.outcome}.`
    case 'NothingToFence':
      return `${refusal.migration} is ${refusal.phase}: nobody waits there for a host to be fenced.`
    case 'TargetAnswered':
      return `${refusal.host} has answered, at position ${refusal.answeredAt}: ${refusal.vm} runs there. There is nothing to resolve.`
    case 'NotTheTarget':
      return `${refusal.migration} is in doubt about ${refusal.target}, not about ${refusal.host}.`
    case 'HostAlive':
      return `The agent of ${refusal.host} is alive, so ${refusal.host} has not been fenced. Turn it off and ask again; insist only if you know that ${refusal.vm} does not run there and never will.`
    case 'NotSilentYet':
      return `This coordinator has listened to heartbeats for a few seconds only, and cannot say yet that ${refusal.host} is silent. Ask again in ten seconds; insist only if you know that ${refusal.vm} does not run there and never will.`
    case 'LogBehind':
      return `The log has lost its tail: ${list(refusal.who)} saw position ${refusal.position}, and what stood there is gone. Nothing is decided until it has been compared with the fleet: \`ferry doctor --fleet\`, then \`ferry recover\`.`
    case 'LogWhole':
      return 'Nobody has raised an alarm about the log: there is nothing to recover.'
    case 'NotListenedYet':
      return 'This coordinator has listened to heartbeats for a few seconds only, and cannot say yet which hosts there are. Ask again in ten seconds.'
    case 'HostsAlive':
      return `${list(refusal.hosts)} ${refusal.hosts.length === 1 ? 'is' : 'are'} not off: the agent there is alive, and says itself what runs there. Leave out only hosts that are silent.`
    case 'HostsSilent':
      return `${list(refusal.hosts)} ${refusal.hosts.length === 1 ? 'has' : 'have'} not said what runs there since the alarm. Bring the agent back, or make sure that the host is off and name it with --without.`
    case 'GuestUnclear':
      return `Where ${refusal.vm} belongs cannot be seen: ${refusal.copies.length === 0 ? 'no host has a copy' : few(refusal.copies.map(({ host, state }) => `${host} has one that is ${state}`))}. Say it with --guest ${refusal.vm}=HOST, or --lost ${refusal.vm}.`
    case 'NoWholeCopy':
      return `${refusal.vm} cannot be given to ${refusal.host}: no whole copy is known there, or it runs elsewhere.`
    case 'Busy':
      return `Somebody else was faster, several times over: ${refusal.what}. Ask again.`
  }
}

export function unfitSentence(unfit: Unfit): string {
  switch (unfit.type) {
    case 'NotEnoughMemory':
      return `the guest needs ${mebibytes(unfit.neededBytes)}, ${mebibytes(unfit.freeBytes)} are free`
    case 'OtherHypervisor':
      return `the guest needs ${unfit.needed}, the host has ${unfit.found}`
    case 'MachineUnsupported':
      return `its hypervisor does not know the machine type ${unfit.machine}`
    case 'CpuUnsupported':
      return `its CPU cannot be a ${unfit.cpu}`
    case 'AcceleratorUnsupported':
      return `it has no ${unfit.accelerator}`
    case 'HostSilent':
      return `${unfit.host} has not been heard of lately`
    case 'GuestAlreadyHere':
      return `it has a copy of ${unfit.vm} that is ${unfit.state}`
    case 'StaleCopy':
      return `it was fenced, and has not said yet that its stale copy of ${unfit.vm} is gone`
  }
}

export function hostRefusalSentence(refusal: HostRefusal): string {
  switch (refusal.type) {
    case 'GuestGone':
      return `${refusal.vm} is not here any more`
    case 'GuestNotRunning':
      return `${refusal.vm} is ${refusal.state}`
    case 'StartsByItself':
      return `its host starts ${refusal.vm} by itself when it comes up, wherever it runs by then: take that away first (libvirt: \`virsh autostart --disable ${refusal.vm}\`; Xen: its file in /etc/xen/auto)`
    case 'DiskMissing':
      return `the disk ${refusal.path} is not there`
    case 'DiskMismatch':
      return `the disk ${refusal.path} is ${refusal.found} here, and ${refusal.expected} was expected`
    case 'DiskUnmovable':
      return `the disk ${refusal.path} cannot be moved: ${refusal.why}`
    case 'DiskInTheWay':
      return `${refusal.path} is there already, and is not known to be left from this guest: nothing is written over`
    case 'NotEnoughStorage':
      return `its disks need ${mebibytes(refusal.neededBytes)} under ${refusal.path}, and ${mebibytes(refusal.freeBytes)} are free`
    case 'FileMissing':
      return `the file ${refusal.path} is not there`
    case 'ToolMissing':
      return `${refusal.tool} is not installed`
    case 'CapabilityMissing':
      return `${refusal.hypervisor} cannot do ${refusal.capability}`
    case 'TransferVersionUnsupported':
      return apart('the stream', refusal)
    case 'DefinitionVersionUnsupported':
      return apart('the definition', refusal)
    case 'CommandUnknown':
      return `its agent is of an older release, which does not know ${refusal.command}`
    case 'UnknownReason':
      return unknownReason(refusal)
    case 'DefinitionSealed':
      return `the definition is not sealed for the key that ${refusal.host} has now, or not by who says so`
    case 'DefinitionInvalid':
      return `the definition is wrong: ${refusal.path} ${refusal.problem}`
    case 'UnknownDefinition':
      return `there is no definition of ${refusal.vm} on this host`
    case 'HypervisorFailed':
      return `the hypervisor said: ${refusal.message}`
    default:
      return unfitSentence(refusal)
  }
}

export function failureSentence(failure: Failure): string {
  switch (failure.type) {
    case 'AgentRestarted':
      return 'the agent was restarted while it copied'
    case 'LogSilent':
      return `the log had been silent for ${Math.round(failure.silentForMs)} ms when the guest was to be switched over`
    case 'VerdictGiven':
      return 'the verdict had been given before the guest was to be switched over'
    case 'ConnectFailed':
      return `${failure.address} could not be reached (${failure.code})`
    case 'TransferRejected':
      return `the target did not take transfer ${failure.transfer} (${failure.code})`
    case 'TransferExpired':
      return `transfer ${failure.transfer} expired before anybody came`
    case 'TransferUnknown':
      return `the target knows no transfer ${failure.transfer}`
    case 'StreamCut':
      return `the stream ended after ${failure.receivedBytes} bytes, without its end frame`
    case 'StreamBroken':
      return `the stream broke after ${failure.sentBytes} bytes (${failure.code})`
    case 'FrameInvalid':
      return `the stream is not one: ${failure.problem}`
    case 'DigestMismatch':
      return `what arrived is not what was sent: ${failure.found}, not ${failure.expected}`
    case 'CountMismatch':
      return `${failure.foundBytes} bytes arrived, ${failure.expectedBytes} were sent`
    case 'KeySealed':
      return `the transfer's key is not sealed for the key that ${failure.host} has now, or not by who says so`
    case 'GuestGone':
      return `${failure.vm} is not there any more`
    case 'HypervisorFailed':
      return failure.otherHand === true
        ? failure.message
        : `the hypervisor said: ${failure.message}`
    case 'UnknownReason':
      return unknownReason(failure)
  }
}

export function causeSentence(cause: Cause): string {
  switch (cause.type) {
    case 'Asked':
      return `${cause.by} asked to cancel it`
    case 'TimedOut':
      return `${cause.phase} took longer than ${seconds(cause.limitMs)}`
    case 'Refused':
      return `${cause.host} refused: ${hostRefusalSentence(cause.refusal)}`
    case 'Failed':
      return `${cause.host}: ${failureSentence(cause.failure)}`
    case 'Fenced':
      return `${cause.host} was fenced by ${cause.by}`
    case 'Recovered':
      return `the log had lost its tail, and ${cause.by} recovered it at position ${cause.position}`
    case 'UnknownReason':
      return unknownReason(cause)
  }
}

export function snapshotFaultSentence(fault: SnapshotFault): string {
  switch (fault.type) {
    case 'Unreadable':
      return `It is no snapshot: ${fault.problem}.`
    case 'OtherFold':
      return `Another version of Ferry made it (${fault.fold}), which may have judged the same events otherwise.`
    case 'Altered':
      return `It is not as it was written: its hash is ${fault.found}, not ${fault.expected}.`
    case 'OtherLog':
      return `${fault.event} does not stand at position ${fault.position} of this log as it did: the log was made anew, or has lost its tail.`
  }
}

const apart = (what: string, { offered, supported }: { offered: number; supported: number }) =>
  `the source writes ${what} in version ${offered} at ${offered < supported ? 'most' : 'least'}, the target reads ${supported} at ${offered < supported ? 'least' : 'most'}`
const unknownReason = ({ reason }: { reason: string }) =>
  `for a reason that this release does not know (${reason})`
const mebibytes = (bytes: number) => `${Math.round(bytes / 1024 ** 2)} MiB`
const seconds = (ms: number) => `${ms / 1000} s`
const list = (names: readonly string[]) => few(names, ' and ')

/** The first ones, and how many others: a sentence fits its answer however large the fleet is. */
export function few(parts: readonly string[], between = '; '): string {
  const others = parts.length - FEW
  if (others <= 1) return parts.join(between)
  const last = between === ' and ' ? between : `${between}and `
  return `${parts.slice(0, FEW).join(between)}${last}${others} others`
}

const FEW = 5
