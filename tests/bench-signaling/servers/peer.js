// The PeerJS server with its defaults, but room for the load. Its clients send heartbeats; it sends none.

import { PeerServer } from 'peer';

PeerServer({ host: '127.0.0.1', port: Number(process.argv[2]), path: '/', concurrent_limit: 100_000 });
