// Tokens as a program of the operator's makes them: JSON Web Tokens signed with a shared secret (HS256).

import { createHmac } from 'node:crypto';

/** @param {string} secret @param {object} claims `exp` is an hour from now unless they say otherwise */
export function token(secret, claims) {
  const part = (/** @type {object} */ value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const signed = `${part({ alg: 'HS256' })}.${part({ exp: Math.floor(Date.now() / 1000) + 3600, ...claims })}`;
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`;
}
