import type { Clock } from '@ferry/events/clock'
import { libvirtPlaces, xenPlaces } from '../../settings.ts'
import type { HostFile } from '../../settings.ts'
import { openDaemon } from '../libvirt/daemon.ts'
import { openXl } from '../xen/xl.ts'
import { openLibxlHost } from './host.ts'
import type { LibxlHost } from './host.ts'
import { openLibxlNotes } from './notes.ts'

/** For the agent, and for what moves a guest beside it. */
export function libxlHostOf(settings: HostFile, clock: Clock): LibxlHost {
  const { socket, guests } = libvirtPlaces(settings)
  return openLibxlHost({
    daemon: openDaemon(socket, clock, 'xen:///system'),
    xl: openXl({ clock, resumer: xenPlaces(settings).resumer }),
    notes: openLibxlNotes(guests),
    guests,
  })
}
