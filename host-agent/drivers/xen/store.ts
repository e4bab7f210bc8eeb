import { spawn } from 'node:child_process'

/**
 * Tells when Xen's store says that something may have changed; it never says what. A guest that is suspended, or gone,
 * is told of as `@releaseDomain`, one that was made as `@introduceDomain`, a new name as a path under `/vm`.
 *
 * @returns how to stop that.
 */
export function watchStore(paths: readonly string[], changed: () => void): () => void {
  const child = spawn('xenstore-watch', [...paths], { stdio: ['ignore', 'pipe', 'ignore'] })
  child.once('error', () => {})
  child.stdout.on('error', () => {}).on('data', changed)
  child.unref()
  return () => {
    child.stdout.removeListener('data', changed)
    child.kill('SIGKILL')
  }
}
