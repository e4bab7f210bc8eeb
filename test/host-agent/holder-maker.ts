import { once } from 'node:events'
import { connect } from 'node:net'
import { makeHolder } from '@ferry/host-agent/drivers/libvirt/holder'

/** A process to be killed: it connects to the socket, makes a holder, which stays where a guest's folder is named, and says so. */
const [path = '', guest] = process.argv.slice(2)
const socket = connect(path)
await once(socket, 'connect')
const handle: unknown = Reflect.get(socket, '_handle')
if (typeof handle !== 'object' || handle === null) throw new Error('the socket has no handle')
const holder = await makeHolder(Number(Reflect.get(handle, 'fd')))
if (guest !== undefined) await holder.stay(guest)
process.stdout.write('made\n')
