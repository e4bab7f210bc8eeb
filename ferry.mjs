#!/usr/bin/env node
// The front door: runs the TypeScript source as it is. `ferry --help` lists the verbs.
import { run } from './bundle.mjs'

await run('ferry.ts')
