import { stepsOfLibvirt } from '../lab/libvirt-steps.ts'

stepsOfLibvirt('libvirt', {})
