import { xenContract } from '../lab/xen-contract.ts'

xenContract('xen, of guests that run while they are copied', 'small')
