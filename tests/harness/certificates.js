// A certificate authority of one scenario, and a server certificate signed by it, made with openssl.

import { execFile } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { network } from './network.js';

const run = promisify(execFile);

/**
 * Makes a CA and a certificate for the relay's name and addresses, by default localhost, 127.0.0.1 and ::1, in a temporary folder.
 * @param {import('./scenario.js').Stage} stage
 * @returns {Promise<{ authority: string, certificate: string, key: string }>} paths of PEM files
 */
export async function certificates(stage) {
  const folder = await stage.folder();
  const path = (/** @type {string} */ name) => join(folder, name);
  const key = (/** @type {string} */ name) => ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', path(name)];
  await run('openssl', ['req', '-x509', ...key('authority.key'), '-out', path('authority.pem'), '-days', '30', '-subj', '/CN=Authority of a test',
    '-addext', 'basicConstraints=critical,CA:TRUE', '-addext', 'keyUsage=critical,keyCertSign']);
  await run('openssl', ['req', ...key('server.key'), '-out', path('server.csr'), '-subj', `/CN=${network.name}`]);
  await writeFile(path('server.ext'), `subjectAltName=DNS:${network.name},IP:${network.relay},IP:${network.relay6}\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n`);
  await run('openssl', ['x509', '-req', '-in', path('server.csr'), '-CA', path('authority.pem'), '-CAkey', path('authority.key'), '-CAcreateserial',
    '-days', '30', '-extfile', path('server.ext'), '-out', path('server.pem')]);
  return { authority: path('authority.pem'), certificate: path('server.pem'), key: path('server.key') };
}
