// The process that moves one guest: `movers.ts` starts it, and it outlives the agent.
import { run } from '../../bundle.mjs'

await run('host-agent/mover/process.ts')
