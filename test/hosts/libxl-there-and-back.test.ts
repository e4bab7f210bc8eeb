import { thereAndBack } from '../lab/xen-there-and-back.ts'

thereAndBack('a guest of Xen that belongs to libvirt', 'linux', 'libxl')
