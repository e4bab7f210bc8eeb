import { readFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { Type } from 'typebox'
import type { Static } from 'typebox'
import { parse } from '@ferry/schemas/parse'
import { Name, Port } from '@ferry/schemas/words'
import { durabilities } from '@ferry/events/durability'

/** `host.json`: what an agent must know about its host. Everything else it finds out or reads in the log. */
const strict = { additionalProperties: false }
const Endpoint = Type.Object(
  { host: Type.String({ minLength: 1 }), port: Type.Union([Type.Literal(0), Port]) },
  strict,
)

export const HostFile = Type.Object(
  {
    host: Name,
    servers: Type.Array(Type.String({ minLength: 1 }), { minItems: 1 }),
    credentialsFile: Type.Optional(Type.String()),
    /** On a log that is less than that this agent does not run: it starts guests on the log's word. */
    durability: Type.Optional(Type.Union(durabilities.map((each) => Type.Literal(each)))),
    /** Every one of the servers has `sync_interval: always`; NATS does not tell its clients. */
    logIsSynced: Type.Optional(Type.Boolean()),
    /** Keys, sockets and what each guest was started as. Relative paths are from this file's folder. */
    stateDirectory: Type.String({ minLength: 1 }),
    /** The definitions of this host's guests, `<name>.json` each. */
    definitions: Type.String({ minLength: 1 }),
    driver: Type.Union([
      Type.Literal('qemu'),
      Type.Literal('libvirt'),
      Type.Literal('xen'),
      Type.Literal('simulated'),
    ]),
    /** Where images arrive. Port 0: any free one. */
    listen: Endpoint,
    /** What other hosts call that, where it is something else. */
    address: Type.Optional(Endpoint),
    /** What guests may use of this host's memory; absent: all of it. */
    memoryMiB: Type.Optional(Type.Integer({ minimum: 1 })),
    /** For all images that leave this host together. */
    bandwidthBytesPerSecond: Type.Optional(Type.Integer({ minimum: 65536 })),
    libvirt: Type.Optional(
      Type.Object(
        {
          /** Where libvirtd, or virtqemud, answers. */
          socket: Type.Optional(Type.String({ minLength: 1 })),
          /** Whose guests: QEMU's, or Xen's by libvirt's driver for it (libxl). */
          uri: Type.Optional(
            Type.Union([Type.Literal('qemu:///system'), Type.Literal('xen:///system')]),
          ),
          /** Where its QEMUs listen for images. */
          images: Type.Optional(Type.String({ minLength: 1 })),
          /**
           * Where other hosts' QEMUs may bring an image without Ferry's stream, in the clear, if a policy asks for it: an
           * address of this host in a network that nobody else reaches. Absent: they may not.
           */
          directAddress: Type.Optional(Type.String({ minLength: 1 })),
        },
        strict,
      ),
    ),
    xen: Type.Optional(
      Type.Object(
        {
          /** Ferry's own helper, which lets a suspended guest run on (`drivers/xen/resume.c`). */
          resume: Type.Optional(Type.String({ minLength: 1 })),
        },
        strict,
      ),
    ),
    qemu: Type.Optional(
      Type.Object(
        {
          binary: Type.Optional(Type.String({ minLength: 1 })),
          /** `auto` asks a short probe whether KVM is usable; its file alone says nothing. */
          accelerators: Type.Optional(
            Type.Union([
              Type.Literal('auto'),
              Type.Array(Type.Union([Type.Literal('kvm'), Type.Literal('tcg')]), { minItems: 1 }),
            ]),
          ),
        },
        strict,
      ),
    ),
  },
  strict,
)
export type HostFile = Static<typeof HostFile>

/** Where a host's libvirtd is found, and what stands beside it. */
export const libvirtPlaces = ({ libvirt = {}, stateDirectory }: HostFile) => ({
  socket: libvirt.socket ?? '/run/libvirt/libvirt-sock',
  images: libvirt.images ?? '/run/libvirt/ferry',
  guests: join(stateDirectory, 'guests'),
  ...(libvirt.directAddress === undefined ? {} : { directAddress: libvirt.directAddress }),
})

/** Guests of Xen that belong to libvirtd have a driver of their own. */
export const isLibxl = ({ driver, libvirt }: HostFile): boolean =>
  driver === 'libvirt' && libvirt?.uri === 'xen:///system'

/** Where a Xen host's helper is found, and what its driver keeps. */
export const xenPlaces = ({ xen = {}, stateDirectory }: HostFile) => ({
  resumer: xen.resume ?? '/usr/local/lib/ferry/xen-resume',
  guests: join(stateDirectory, 'guests'),
})

/** Reads and checks it; paths in it become absolute. */
export async function readHostFile(path: string): Promise<HostFile> {
  const file = parse(HostFile, JSON.parse(await readFile(path, 'utf8')), path)
  const from = (relative: string) => resolve(dirname(path), relative)
  return {
    ...file,
    stateDirectory: from(file.stateDirectory),
    definitions: from(file.definitions),
    ...(file.credentialsFile === undefined ? {} : { credentialsFile: from(file.credentialsFile) }),
  }
}
