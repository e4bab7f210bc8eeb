import type { TSchema, Static } from 'typebox'
import { Invalid, parse } from '@ferry/schemas/parse'
import {
  CancelRequest,
  FleetRequest,
  LimitRequest,
  MigrateRequest,
  RecoverRequest,
  ResolveRequest,
  StartRequest,
  StatusRequest,
} from '@ferry/schemas/request'
import { migrationOf } from '@ferry/events/fleet'
import type { Verbs } from '@ferry/events/log/requests'
import type { Coordinator } from './coordinate.ts'
import { judgeRecover } from './decide/recover.ts'
import {
  judgeCancel,
  judgeLimit,
  judgeMigrate,
  judgeResolve,
  judgeStart,
} from './decide/request.ts'
import { refused } from './refused.ts'
import { fleetView, statusView } from './views.ts'

/** What may be asked of a coordinator, and how each request is answered. Every coordinator answers, leading or not. */
export function verbsOf({ fleet, world, caughtUp, record }: Coordinator): Verbs {
  return {
    migrate: {
      description:
        'Move a guest to another host. The request id becomes the migration id; asking twice is asking once.',
      answer: atTheDoor(MigrateRequest, (request) =>
        record((state, now) => judgeMigrate(state, request, now), request.request),
      ),
    },
    cancel: {
      description: 'Give a migration up, as long as it is not committed.',
      answer: atTheDoor(CancelRequest, (request) =>
        record((state, now) => judgeCancel(state, request, now), request.migration),
      ),
    },
    limit: {
      description: 'Change the bandwidth or the downtime of a migration that is on its way.',
      answer: atTheDoor(LimitRequest, (request) =>
        record((state, now) => judgeLimit(state, request, now), request.migration),
      ),
    },
    resolve: {
      description: 'Answer a migration that is in doubt: its target was fenced.',
      answer: atTheDoor(ResolveRequest, (request) =>
        record((state, now) => judgeResolve(state, request, now), request.migration),
      ),
    },
    start: {
      description: 'Start a guest on a host that has its definition.',
      answer: atTheDoor(StartRequest, (request) =>
        record((state, now) => judgeStart(state, request, now), request.request),
      ),
    },
    recover: {
      description: 'Answer the alarms about a log that lost its tail, and say where guests belong.',
      answer: atTheDoor(RecoverRequest, (request) =>
        record((state, now) => judgeRecover(state, request, now), 'recovery'),
      ),
    },
    status: {
      description: 'One migration: its phase, its verdict, what it waits for.',
      answer: atTheDoor(StatusRequest, async ({ migration }) => {
        // Another one may have recorded it just now: who does not know it looks once more.
        if (migrationOf(fleet(), migration) === undefined) await caughtUp()
        const view = statusView(fleet(), migration, world())
        return view ?? refused({ type: 'UnknownMigration', migration })
      }),
    },
    fleet: {
      description: 'All hosts, all guests, and what is being moved.',
      answer: atTheDoor(FleetRequest, async () => fleetView(fleet(), world())),
    },
  }
}

/** Checks a request once; one that does not fit is refused with the path and the value that stands there. */
function atTheDoor<Shape extends TSchema>(
  shape: Shape,
  answer: (request: Static<Shape>) => Promise<unknown>,
) {
  return async (body: unknown): Promise<unknown> => {
    let request: Static<Shape>
    try {
      request = parse(shape, body, 'the request')
    } catch (error) {
      if (!(error instanceof Invalid)) throw error
      return refused({ type: 'NotUnderstood', path: error.path, problem: error.problem })
    }
    return answer(request)
  }
}
