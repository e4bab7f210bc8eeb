// The process that moves one guest: `movers.ts` starts it, and it outlives the agent.
import { register } from 'tsx/esm/api'

register()
await import('./process.ts')
