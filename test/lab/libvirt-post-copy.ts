import { sceneOf } from './libvirt-blows.ts'
import type { Scene } from './libvirt-blows.ts'
import { bootSectorGuest, withGuest } from './libvirt-stage.ts'

/** It makes its memory dirty faster than this brings it away. */
export const NEVER_DONE = {
  bandwidthBytesPerSecond: 16 * 2 ** 20,
  downtimeMs: 1,
  directConnections: 1,
  postCopyAfterMs: 1000,
}

/** The way of one guest in post-copy, from its first request on. */
export const onItsWay = (tell: (scene: Scene) => Promise<void>): Promise<void> =>
  withGuest(bootSectorGuest(), async (stage) => {
    const scene = await sceneOf(stage, 'm1', 'rack2', stage.network.passedBytes)
    try {
      await stage.move('m1', 'rack2', NEVER_DONE)
      await tell(scene)
    } finally {
      scene.letGo()
      scene.telling.close()
    }
  })
