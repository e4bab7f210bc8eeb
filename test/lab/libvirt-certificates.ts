import { execFile } from 'node:child_process'
import { copyFile, mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'

/** Where a host has its own, below /etc/libvirt; the names of the files are libvirt's. */
export const CERTIFICATES = 'tls'

const openssl = (...words: string[]) => promisify(execFile)('openssl', words)
const newKey = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes']

/** The authority that all hosts of a lab believe: a key and a certificate in a folder. */
export async function makeAuthority(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true })
  const files = ['-keyout', join(folder, 'ca-key.pem'), '-out', join(folder, 'ca-cert.pem')]
  const use = ['-addext', 'keyUsage=critical,keyCertSign']
  await openssl(...newKey, ...files, '-days', '2', '-subj', '/CN=the lab', ...use)
}

/** What a host shows, as a server and as a client, to be known by its name. */
export async function certify(authority: string, folder: string, host: string): Promise<void> {
  await mkdir(folder, { recursive: true })
  const [key, certificate] = [join(authority, 'ca-key.pem'), join(authority, 'ca-cert.pem')]
  await copyFile(certificate, join(folder, 'ca-cert.pem'))
  const extensions = [
    `subjectAltName=DNS:${host}`,
    'basicConstraints=critical,CA:false',
    'keyUsage=critical,digitalSignature,keyEncipherment',
    'extendedKeyUsage=serverAuth,clientAuth',
  ].flatMap((each) => ['-addext', each])
  for (const role of ['server', 'client']) {
    const files = [
      '-keyout',
      join(folder, `${role}-key.pem`),
      '-out',
      join(folder, `${role}-cert.pem`),
    ]
    const signed = ['-CA', certificate, '-CAkey', key, '-days', '2', '-subj', `/CN=${host}`]
    await openssl(...newKey, ...files, ...signed, ...extensions)
  }
}
