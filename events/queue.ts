/**
 * What one side puts in, the other takes out in order: a loop with one `await` for each turn.
 * Ends when it is closed and empty, or with the error that it was closed with.
 */
export class Queue<T> implements AsyncIterable<T> {
  readonly #items: T[] = []
  #end: { readonly error?: Error } | undefined
  #wake: (() => void) | undefined

  put(item: T): void {
    if (this.#end !== undefined) return
    this.#items.push(item)
    this.#wake?.()
  }

  close(error?: Error): void {
    this.#end ??= error === undefined ? {} : { error }
    this.#wake?.()
  }

  get size(): number {
    return this.#items.length
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, undefined> {
    for (;;) {
      const item = this.#items.shift()
      if (item !== undefined) {
        yield item
        continue
      }
      if (this.#end?.error !== undefined) throw this.#end.error
      if (this.#end !== undefined) return
      await new Promise<void>((wake) => {
        this.#wake = wake
      })
      this.#wake = undefined
    }
  }
}
