import type { RequestRefusal } from '@ferry/schemas/refusal'
import type { Answer } from '@ferry/schemas/request'
import { refusalSentence } from '@ferry/events/sentences'

/** A refusal as an answer: the reason as data, and the same in words. */
export const refused = (refusal: RequestRefusal): Answer => ({
  accepted: false,
  refusal,
  sentence: refusalSentence(refusal),
})
