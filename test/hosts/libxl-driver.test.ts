import { xenContract } from '../lab/xen-contract.ts'

xenContract('libxl, of guests that run while they are copied', 'small', 'libxl')
