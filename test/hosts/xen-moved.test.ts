import { xenStories } from '../lab/xen-fleet.ts'
import { agentsInEachPhase, killings } from '../lab/xen-killed.ts'
import { lostWords } from '../lab/xen-lost.ts'
import { stillThereAndBack } from '../lab/xen-there-and-back.ts'

xenStories('guests of Xen that are moved', {
  xl: [stillThereAndBack, lostWords, killings('a PVH guest', agentsInEachPhase)],
  libxl: [killings('a PVH guest of libvirt', agentsInEachPhase)],
})
