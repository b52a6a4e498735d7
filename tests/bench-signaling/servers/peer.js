// The PeerJS server with its defaults, but room for the load. Its clients send heartbeats; it sends none. What it does not catch is
// caught as its own program catches it.

import { PeerServer } from 'peer';

process.on('uncaughtException', () => {});
PeerServer({ host: '127.0.0.1', port: Number(process.argv[2]), path: '/', concurrent_limit: 100_000 });
