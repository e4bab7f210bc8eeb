import { readFile } from 'node:fs/promises'
import { until } from './until.ts'

/** Whose pid stands in a file, once it does. One that is still empty would be read as 0: as everybody who runs this test. */
export async function pidIn(file: string): Promise<number> {
  let pid = 0
  await until(`a pid in ${file}`, async () => {
    pid = Number(await readFile(file, 'utf8').catch(() => ''))
    return pid > 0
  })
  return pid
}

export const killIn = async (file: string): Promise<void> =>
  void process.kill(await pidIn(file), 'SIGKILL')
