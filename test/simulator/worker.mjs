// One of the simulator's processes: `crew.ts` starts as many as there are processors.
import { run } from '../../bundle.mjs'

await run('test/simulator/worker.ts')
