// The process that moves one guest: `movers.ts` starts it, and it outlives the agent.
import { setFlagsFromString } from 'node:v8'
import { run } from '../../bundle.mjs'

// What it does for the first time, a paused guest may wait for: all of it is compiled while it is loaded.
setFlagsFromString('--no-lazy')
await run('host-agent/mover/process.ts')
