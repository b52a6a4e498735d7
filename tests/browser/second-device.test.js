// The page opened by this machine's address in its network, as a second device opens it: over HTTPS with a certificate that the server made, through
// an embedded relay that listens everywhere.

import { networkInterfaces } from 'node:os';
import { test } from 'node:test';
import { relayCarriesTheCall } from '../harness/relayed-call.js';
import { scenario } from '../harness/scenario.js';
import { startSignaling } from '../harness/servers.js';
import { inCall, roomUrl, startBrowser } from '../harness/tab.js';

const address = Object.values(networkInterfaces()).flat().find((each) => each && each.family === 'IPv4' && !each.internal)?.address;

if (!address) test('a second device', { skip: 'this machine has no IPv4 address but loopback' }, () => {});
else {
  scenario('two tabs on the network address are in a call over HTTPS, relayed by the same server', async (stage) => {
    const signaling = await startSignaling(stage, { host: '0.0.0.0', args: ['--tls', 'self-signed'] });
    const browser = await startBrowser(stage, { ignoreHTTPSErrors: true });
    const url = roomUrl(signaling.port, 'second-device', { relay: 'udp' }, `https://${address}`);
    const [one, two] = [await (await browser.tab(url)).join(), await (await browser.tab(url)).join()];

    await inCall([one, two], 'relayed');
    await relayCarriesTheCall(stage, signaling, one, two);
  });
}
