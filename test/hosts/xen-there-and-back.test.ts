import { thereAndBack } from '../lab/xen-there-and-back.ts'

thereAndBack('a guest of Xen that runs while it is copied', 'linux')
