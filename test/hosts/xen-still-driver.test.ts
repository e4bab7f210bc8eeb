import { xenContract } from '../lab/xen-contract.ts'

xenContract('xen, of guests that stand still while they are copied', 'linux pv')
