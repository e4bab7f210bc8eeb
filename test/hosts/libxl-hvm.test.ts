import { thereAndBack } from '../lab/xen-there-and-back.ts'

thereAndBack('an HVM guest of Xen that belongs to libvirt', 'small hvm', 'libxl')
