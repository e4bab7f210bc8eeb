import { busyGuest } from '../guest/boot-sector.ts'
import { openLab } from './lab.ts'
const lab = await openLab({ hosts: ['rack1', 'rack2'], driver: 'qemu' })
try {
  await lab.defineGuest('web1', { program: busyGuest, memoryMiB: 1024 })
  await lab.start('web1', 'rack1')
  for (let move = 1; move <= 4; move++) {
    const target = move % 2 === 1 ? 'rack2' : 'rack1'
    const t = performance.now()
    await lab.migrate({ request: `move-${move}`, vm: 'web1', target })
    await lab.ended(`move-${move}`)
    console.log(performance.now() - t)
    const { execFileSync } = await import('node:child_process')
    console.log(
      execFileSync('node', ['ferry.mjs', 'explain', `move-${move}`, '-s', lab.server()], {
        encoding: 'utf8',
      }),
    )
  }
} finally {
  await lab.close()
}
