// A room that somebody looks after, on the call page: the token in the link, the door, knocking, the password, and removing somebody. On a desktop and on
// a phone, with pictures for people to look at in tests/.cache/screenshots.

import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { scenario, until } from '../harness/scenario.js';
import { startSignaling } from '../harness/servers.js';
import { inCall, roomUrl, startBrowser } from '../harness/tab.js';
import { token } from '../harness/token.js';

const FOLDER = fileURLToPath(new URL('../.cache/screenshots/', import.meta.url));
const SECRET = 'a secret of more than thirty-two characters';
const ROOM = 'team-garden';
const HOST = { sub: 'ada', room: 'team-*', role: 'host', may_kick: true, may_lock: true };
const GUEST = { room: ROOM };

const SCREENS = {
  desktop: { viewport: { width: 1280, height: 800 } },
  phone: { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true },
};

scenario('the token of the link lets a person in, also after a reload, and is in no address, no copied link and no request line', async (stage) => {
  const { signaling, open } = await guarded(stage);
  const tab = await open(GUEST);
  const requested = /** @type {string[]} */ ([]);
  tab.page.on('request', (request) => requested.push(request.url()));
  const address = () => tab.run(() => location.href);
  assert.equal(await address(), roomUrl(signaling.port, ROOM));
  await tab.join();
  assert.equal(await tab.page.locator('#link').inputValue(), `http://127.0.0.1:${signaling.port}/#${ROOM}`);
  await tab.page.reload();
  await tab.join();
  assert.equal(await address(), roomUrl(signaling.port, ROOM));
  assert.ok(requested.length > 10 && requested.every((url) => !url.includes('eyJ')));
});

scenario('without a token the page says that an invitation is needed', async (stage) => {
  const { browser, signaling } = await guarded(stage);
  const tab = await browser.tab(roomUrl(signaling.port, ROOM));
  await press(tab);
  await ended(tab, 'You need an invitation');
});

for (const [screen, options] of Object.entries(SCREENS)) {
  scenario(`on a ${screen} who knocks waits until the host lets them in or refuses, and only the host is asked`, async (stage) => {
    const { open } = await guarded(stage, options);
    const [host, guest] = [await (await open(HOST)).join('Ada'), await (await open(GUEST)).join('Grace')];
    await inCall([host, guest], 'direct');
    assert.ok(!(await guest.page.locator('#door-open').isVisible()) && !(await guest.page.locator('.tile-remove').isVisible()));
    await chooseDoor(host, 'knock', `${screen}-door.png`);
    await guest.page.getByText('Newcomers have to knock now').waitFor();

    const [bo, eve] = [await open(GUEST), await open(GUEST)];
    await press(bo, 'Bo');
    await bo.page.getByRole('heading', { name: 'You are at the door' }).waitFor();
    await picture(bo, `${screen}-waiting.png`);
    await host.page.getByText('Bo is at the door').waitFor();
    await press(eve, 'Eve');
    await host.page.getByText('Eve is at the door').waitFor();
    await picture(host, `${screen}-knocks.png`);
    assert.ok(!(await guest.page.locator('#knocks').isVisible()));

    await host.page.getByRole('button', { name: 'Let Bo in' }).click();
    await inCall([host, guest, await bo.joined()], 'direct');
    assert.ok(!(await bo.page.locator('#waiting').isVisible()));
    await host.page.getByRole('button', { name: 'Refuse Eve' }).click();
    await ended(eve, 'Nobody let you in');
    await until('nobody to be shown at the door', async () => !(await host.page.locator('#knocks').isVisible()));
  });

  scenario(`on a ${screen} a newcomer is asked for the password until it is the right one`, async (stage) => {
    const { open } = await guarded(stage, options);
    const host = await (await open(HOST)).join('Ada');
    await host.page.locator('#door-open').click();
    await host.page.getByLabel('Password for newcomers').fill('open sesame');
    await host.page.getByRole('button', { name: 'Set', exact: true }).click();
    await host.page.getByText('Newcomers have to know the password.').and(host.page.locator('#room-password-state')).waitFor();
    await host.page.keyboard.press('Escape');

    const bo = await open(GUEST);
    await press(bo, 'Bo');
    await bo.page.getByRole('heading', { name: 'This room has a password' }).waitFor();
    await bo.page.locator('#password').fill('open barley');
    await bo.page.getByRole('button', { name: 'Come in' }).click();
    await bo.page.getByText('That is not the password of this room.').waitFor();
    await picture(bo, `${screen}-password.png`);
    await bo.page.locator('#password').fill('open sesame');
    await bo.page.keyboard.press('Enter');
    await inCall([host, await bo.joined()], 'direct');
    await bo.seesPictureOf(host);
  });

  scenario(`on a ${screen} the host locks the room and removes somebody, who does not come back`, async (stage) => {
    const { open } = await guarded(stage, options);
    const [host, guest] = [await (await open(HOST)).join('Ada'), await (await open(GUEST)).join('Grace')];
    await inCall([host, guest], 'direct');
    await chooseDoor(host, 'locked');
    await guest.page.locator('#door-sign').waitFor();
    await host.page.locator('.tile-remove').hover();
    await host.page.getByRole('button', { name: 'Remove Grace from the room' }).click();
    await picture(host, `${screen}-remove.png`);
    await host.page.getByRole('button', { name: 'Remove', exact: true }).click();
    await ended(guest, 'You were removed from the room');
    await until('the tile to be gone', async () => (await host.tiles()).length === 0);
    assert.equal(await host.run(() => document.activeElement?.id), 'mute', 'the focus is still in the page');
    await guest.page.getByRole('button', { name: 'Join again' }).click();
    await press(guest);
    await ended(guest, 'This room is locked');
  });
}

for (const [screen, options] of Object.entries(SCREENS)) {
  scenario(`on a ${screen} the host keeps somebody out for an hour, who cannot come back into a room that is open until they are let in again`, async (stage) => {
    const { open } = await guarded(stage, options);
    // One who may remove, and not lock, sees who is kept out as well.
    const [host, guest] = [await (await open({ ...HOST, may_lock: false })).join('Ada'), await (await open(GUEST)).join('Grace')];
    await inCall([host, guest], 'direct');
    await host.page.locator('.tile-remove').hover();
    await host.page.getByRole('button', { name: 'Remove Grace from the room' }).click();
    await host.page.getByLabel('Keep them out for an hour').check();
    await host.page.getByRole('button', { name: 'Remove', exact: true }).click();
    await ended(guest, 'You cannot enter this room for now');
    await guest.page.getByRole('button', { name: 'Join again' }).click();
    await press(guest, 'Grace');
    await ended(guest, 'You cannot enter this room for now');

    await host.page.locator('#door-open').click();
    await host.page.getByText('Grace, for 60 min more').waitFor();
    assert.ok(!(await host.page.locator('#door-form').isVisible()));
    await picture(host, `${screen}-kept-out.png`);
    await host.page.getByRole('button', { name: 'Let Grace in again' }).click();
    await until('the list to be empty', async () => !(await host.page.locator('#kept-out').isVisible()));
    assert.ok(await host.run(() => document.activeElement?.closest('#door') !== null), 'the focus is still in the sheet');
    await host.page.keyboard.press('Escape');
    await guest.page.getByRole('button', { name: 'Join again' }).click();
    await press(guest, 'Grace');
    await inCall([host, await guest.joined()], 'direct');
  });
}

scenario('the minutes of those who are kept out count down while the sheet is open, and no longer', async (stage) => {
  const { open } = await guarded(stage);
  const [host, grace, bo] = [await (await open(HOST)).join('Ada'), await (await open(GUEST)).join('Grace'), await (await open(GUEST)).join('Bo')];
  await inCall([host, grace, bo], 'direct');
  await host.run(() => {
    const [set, clear, running] = [setInterval, clearInterval, globalThis.RUNNING = new Set()];
    globalThis.setInterval = (/** @type {any[]} */ ...given) => { const timer = set(...given); running.add(timer); return timer; };
    globalThis.clearInterval = (/** @type {any} */ timer) => { running.delete(timer); clear(timer); };
  });
  const running = () => host.run(() => globalThis.RUNNING.size);
  await host.run(([longer, shorter]) => {
    globalThis.call.client.kick(longer, { ban_ms: 75_000 });
    globalThis.call.client.kick(shorter, { ban_ms: 15_000 });
  }, [grace.id, bo.id]);
  await until('both to be gone', async () => (await host.tiles()).length === 0);
  await host.page.locator('#door-open').click();
  await host.page.getByText('Bo, for 1 min more').waitFor();
  await host.page.getByText('Grace, for 2 min more').waitFor();
  await host.page.getByText('Bo, for 1 min more').waitFor({ state: 'detached' });
  await host.page.getByText('Grace, for 1 min more').waitFor();
  assert.equal(await running(), 1);
  await host.page.keyboard.press('Escape');
  await until('the countdown to have ended', async () => await running() === 0);
});

/** A server that asks for tokens. @param {import('../harness/scenario.js').Stage} stage @param {object} [options] of the browser */
async function guarded(stage, options) {
  mkdirSync(FOLDER, { recursive: true });
  const signaling = await startSignaling(stage, { args: ['--token-secret-file', await stage.file('token-secret', `${SECRET}\n`)] });
  const browser = await startBrowser(stage, { colorScheme: 'light', ...options });
  const open = (/** @type {object} */ claims) => browser.tab(roomUrl(signaling.port, `${ROOM}&token=${token(SECRET, claims)}`));
  return { signaling, browser, open };
}

/** Asks to come in, whatever follows. @param {import('../harness/tab.js').Tab} tab @param {string} [name] */
async function press(tab, name = 'Somebody') {
  await tab.page.locator('#name').fill(name);
  await tab.page.locator('#join').click();
}

/** @param {import('../harness/tab.js').Tab} tab @param {string} title */
const ended = (tab, title) => tab.page.getByRole('heading', { name: title }).waitFor();

/** @param {import('../harness/tab.js').Tab} tab @param {string} door @param {string} [shot] */
async function chooseDoor(tab, door, shot) {
  await tab.page.locator('#door-open').click();
  await tab.page.locator(`#door-form [value=${door}]`).check();
  await tab.page.locator('#door-sign').waitFor();
  if (shot) await picture(tab, shot);
  await tab.page.keyboard.press('Escape');
}

/** @param {import('../harness/tab.js').Tab} tab @param {string} name */
async function picture(tab, name) {
  await tab.page.screenshot({ path: FOLDER + name });
  const [content, window] = await tab.run(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(content <= window, `the page is ${content} wide in a window of ${window}`);
}
