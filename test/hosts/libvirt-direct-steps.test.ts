import { stepsOfLibvirt } from '../lab/libvirt-steps.ts'

stepsOfLibvirt('libvirt, directly', { directConnections: 1 })
