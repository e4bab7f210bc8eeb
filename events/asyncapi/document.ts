import { Type } from 'typebox'
import { wireSchema } from '@ferry/schemas/cloud-event'
import { messages } from '@ferry/schemas/messages'
import type { Kind, MessageName } from '@ferry/schemas/messages'
import {
  Answer,
  CancelRequest,
  FleetRequest,
  LimitRequest,
  MigrateRequest,
  RecoverRequest,
  Refused,
  ResolveRequest,
  StartRequest,
  StatusRequest,
} from '@ferry/schemas/request'
import { FleetView, StatusView } from '@ferry/schemas/view'
import { apiGroup, streams, templates } from '../subjects.ts'

/**
 * What Ferry says, for people who subscribe in other languages: one JSON Schema for each message, and an AsyncAPI 3
 * document with the subjects on which they stand. Made from the same tables that the program runs on.
 */
export type Published = { readonly [file: string]: object }

/** The request API: what is sent to `ferry.api.<verb>`, and what comes back. */
const verbs = {
  migrate: { request: MigrateRequest, reply: Answer },
  cancel: { request: CancelRequest, reply: Answer },
  limit: { request: LimitRequest, reply: Answer },
  resolve: { request: ResolveRequest, reply: Answer },
  start: { request: StartRequest, reply: Answer },
  status: { request: StatusRequest, reply: Type.Union([StatusView, Refused]) },
  fleet: { request: FleetRequest, reply: FleetView },
  recover: { request: RecoverRequest, reply: Answer },
}

const meaningOf: Readonly<Record<Kind, string>> = {
  decision:
    'What a coordinator decided about a guest. `data.after` names the decision before: the first message whose `after` is right is valid, any other is void.',
  admission: 'Who was given a slot. The same rule of `after` as for decisions, on one ledger.',
  command: 'What a coordinator asks of a host.',
  fact: 'What happened on a host, said by its agent.',
  verdict: 'Who may run the guest from now on: the first valid message is the verdict.',
  host: 'What a host can run and what it runs.',
  coordinator: 'Who leads the coordinators.',
  alarm:
    'The log does not hold what this writer has seen in it. Nothing is decided or started until it is answered.',
  recovery: 'The answer to alarms, by a person. The same rule of `after` as for decisions.',
  progress: 'How the copying goes: samples, in a stream of their own that is kept by age.',
}

/** All files, by their names: `<Message>.v<N>.json`, `request.<verb>.json`, `reply.<verb>.json`, `asyncapi.json`. */
export function published(): Published {
  const files: { [file: string]: object } = {}
  for (const name of names()) files[schemaFile(name)] = withDraft(wireSchema(name))
  for (const [verb, { request, reply }] of Object.entries(verbs)) {
    files[`request.${verb}.json`] = withDraft(request)
    files[`reply.${verb}.json`] = withDraft(reply)
  }
  files['asyncapi.json'] = asyncApi()
  return files
}

function asyncApi(): object {
  const kinds = Object.keys(templates).filter(isKind)
  const ofKind = (kind: Kind) => names().filter((name) => messages[name].kind === kind)
  return {
    asyncapi: '3.0.0',
    info: {
      title: 'Ferry',
      version: '1',
      description: `The event log of live migrations. Everything but progress stands in the JetStream stream ${streams.log.name}, progress in ${streams.progress.name}. Messages are CloudEvents 1.0, structured JSON. A reply that does not fit into one message comes in parts to a request with the header Ferry-Takes-Parts: yes. Each has the header Ferry-Part, 1/3, 2/3 and 3/3 for example, and the parts one behind the other are the reply.`,
    },
    defaultContentType: 'application/cloudevents+json',
    channels: {
      ...Object.fromEntries(
        kinds.map((kind) => [
          kind,
          {
            address: templates[kind],
            description: meaningOf[kind],
            parameters: parametersOf(templates[kind]),
            messages: Object.fromEntries(
              ofKind(kind).map((name) => [name, ref(`#/components/messages/${name}`)]),
            ),
          },
        ]),
      ),
      ...Object.fromEntries(
        Object.keys(verbs).map((verb) => [
          `api.${verb}`,
          {
            address: `${apiGroup}.${verb}`,
            messages: {
              request: { payload: ref(`./request.${verb}.json`) },
              reply: { payload: ref(`./reply.${verb}.json`) },
            },
          },
        ]),
      ),
    },
    operations: {
      ...Object.fromEntries(
        kinds.map((kind) => [
          `follow.${kind}`,
          { action: 'receive', channel: ref(`#/channels/${kind}`) },
        ]),
      ),
      ...Object.fromEntries(
        Object.keys(verbs).map((verb) => [
          `ask.${verb}`,
          {
            action: 'send',
            channel: ref(`#/channels/api.${verb}`),
            messages: [ref(`#/channels/api.${verb}/messages/request`)],
            reply: {
              channel: ref(`#/channels/api.${verb}`),
              messages: [ref(`#/channels/api.${verb}/messages/reply`)],
            },
          },
        ]),
      ),
    },
    components: {
      messages: Object.fromEntries(
        names().map((name) => [
          name,
          {
            name,
            contentType: 'application/cloudevents+json',
            payload: ref(`./${schemaFile(name)}`),
          },
        ]),
      ),
    },
  }
}

const names = (): MessageName[] => Object.keys(messages).filter(isMessageName)
const isMessageName = (name: string): name is MessageName => Object.hasOwn(messages, name)
const isKind = (name: string): name is Kind => Object.hasOwn(templates, name)

const schemaFile = (name: MessageName) => `${name}.v${messages[name].version}.json`

const withDraft = (schema: object) => ({
  $schema: 'https://json-schema.org/draft/2020-12/schema',
  ...schema,
})

const ref = (target: string) => ({ $ref: target })

function parametersOf(template: string): object {
  const found = [...template.matchAll(/\{(\w+)\}/g)].map(([, name = '']) => name)
  return Object.fromEntries(
    found.map((name) => [
      name,
      { description: `A ${name}, with everything that NATS would split or refuse written as =XX.` },
    ]),
  )
}
