import { thereAndBack } from '../lab/xen-there-and-back.ts'

thereAndBack('an HVM guest of Xen, and its device model', 'small hvm')
