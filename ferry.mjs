#!/usr/bin/env node
// The front door: runs the TypeScript source as it is. `ferry --help` lists the verbs.
import { register } from 'tsx/esm/api'

register()
await import('./ferry.ts')
