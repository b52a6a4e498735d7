// Runs in the page before anything else. It replaces camera and microphone by a picture that carries a code and a tone, reads the code back from
// what other tabs send, keeps the times at which frames were shown, and can hold outgoing signals. A plain script: no imports.
//
// The code: 8 columns by 4 rows of black and white blocks, 32 bits, row by row from the top left:
// tab (8), frame counter (16), checksum (8). Blocks this coarse survive any codec at any bit rate.

(() => {
  const COLUMNS = 8;
  const ROWS = 4;
  const BLOCK = 80;
  const FRAMES_A_SECOND = 15;
  const TAB = globalThis.PROBE_TAB ?? 0;

  let counter = 0;
  const canvas = document.createElement('canvas');
  canvas.width = COLUMNS * BLOCK;
  canvas.height = ROWS * BLOCK;
  const pen = canvas.getContext('2d');

  const checksum = (tab, count) => (tab * 31 + (count & 255) * 7 + (count >> 8) * 13 + 85) & 255;

  function drawCode() {
    counter = (counter + 1) & 0xffff;
    const bits = [[TAB, 8], [counter, 16], [checksum(TAB, counter), 8]]
      .map(([value, width]) => value.toString(2).padStart(width, '0')).join('');
    for (let i = 0; i < bits.length; i += 1) {
      pen.fillStyle = bits[i] === '1' ? 'white' : 'black';
      pen.fillRect((i % COLUMNS) * BLOCK, Math.floor(i / COLUMNS) * BLOCK, BLOCK, BLOCK);
    }
  }

  const SCENES = [
    { wall: ['#f6d9b8', '#e9a178'], skin: '#f0c7a0', hair: '#3d2a22', shirt: '#2f5d62' },
    { wall: ['#c8dff0', '#7fa6c9'], skin: '#8d5a3c', hair: '#1d1715', shirt: '#d9a441' },
    { wall: ['#d8e6cf', '#8fb08c'], skin: '#f2d3b3', hair: '#2b2b33', shirt: '#b5524a' },
  ];

  /** A person in front of a wall, nodding slightly. */
  function drawScene() {
    counter += 1;
    const { wall, skin, hair, shirt } = SCENES[(TAB - 1) % SCENES.length];
    const { width, height } = canvas;
    const [x, y] = [width / 2 + 8 * Math.sin(counter / 20), height * 0.44 + 5 * Math.sin(counter / 13)];
    const light = pen.createLinearGradient(0, 0, width, height);
    light.addColorStop(0, wall[0]);
    light.addColorStop(1, wall[1]);
    const shape = (color, ...ellipse) => {
      pen.fillStyle = color;
      pen.beginPath();
      pen.ellipse(...ellipse, 0, 0, 2 * Math.PI);
      pen.fill();
    };
    pen.fillStyle = light;
    pen.fillRect(0, 0, width, height);
    shape(hair, x, y - 14, 66, 78);
    pen.fillStyle = skin;
    pen.fillRect(x - 20, y + 40, 40, 70);
    shape(shirt, width / 2, height + 40, 150, 128);
    shape(skin, x, y, 54, 68);
    shape(hair, x, y - 52, 54, 26);
    for (const side of [-1, 1]) shape('#2a211d', x + side * 20, y - 4, 4.5, counter % 45 < 3 ? 0.8 : 5.5);
    pen.strokeStyle = '#8a4b3c';
    pen.lineWidth = 3;
    pen.beginPath();
    pen.arc(x, y + 18, 17, 0.25, Math.PI - 0.25);
    pen.stroke();
  }

  const SAMPLE = 8;
  const reader = new OffscreenCanvas(COLUMNS * SAMPLE, ROWS * SAMPLE).getContext('2d', { willReadFrequently: true });

  /** The code that a video shows now, or null if what it shows carries none. */
  function decode(video) {
    if (!video || video.readyState < 2) return null;
    reader.drawImage(video, 0, 0, COLUMNS * SAMPLE, ROWS * SAMPLE);
    let bits = '';
    for (let row = 0; row < ROWS; row += 1) {
      for (let column = 0; column < COLUMNS; column += 1) {
        const [red, green, blue] = reader.getImageData(column * SAMPLE + SAMPLE / 2, row * SAMPLE + SAMPLE / 2, 1, 1).data;
        bits += red + green + blue > 3 * 128 ? '1' : '0';
      }
    }
    const [tab, count, sum] = [bits.slice(0, 8), bits.slice(8, 24), bits.slice(24)].map((part) => parseInt(part, 2));
    return sum === checksum(tab, count) ? { tab, count } : null;
  }

  // ---- what is sent ----

  function toneTrack() {
    const audio = new AudioContext();
    const tone = audio.createOscillator();
    const volume = audio.createGain();
    volume.gain.value = 0.3;
    tone.frequency.value = 300 + 100 * TAB;
    const out = audio.createMediaStreamDestination();
    tone.connect(volume).connect(out);
    tone.start();
    return out.stream.getAudioTracks()[0];
  }

  // Devices with names as a person's machine has them, so that the pickers show something.
  const DEVICES = [
    { kind: 'videoinput', deviceId: 'camera', groupId: 'probe', label: 'Integrated camera' },
    { kind: 'audioinput', deviceId: 'microphone', groupId: 'probe', label: 'Headset microphone' },
    { kind: 'audiooutput', deviceId: 'default', groupId: 'probe', label: 'Headset' },
  ];

  /** Gives a track the device that it pretends to come from. */
  function from(device, track) {
    const settings = track.getSettings.bind(track);
    track.getSettings = () => ({ ...settings(), deviceId: device.deviceId });
    return track;
  }

  if (navigator.mediaDevices) {
    const draw = globalThis.PROBE_PICTURE === 'scene' ? drawScene : drawCode;
    draw();
    setInterval(draw, 1000 / FRAMES_A_SECOND);
    navigator.mediaDevices.getUserMedia = async (constraints = {}) => {
      const stream = new MediaStream();
      if (constraints.video) stream.addTrack(from(DEVICES[0], canvas.captureStream(FRAMES_A_SECOND).getVideoTracks()[0]));
      if (constraints.audio) stream.addTrack(from(DEVICES[1], toneTrack()));
      return stream;
    };
    navigator.mediaDevices.enumerateDevices = async () => DEVICES;
  }

  // ---- what is received ----

  const tile = (peer) => document.querySelector(`[data-peer="${peer}"]`);
  const watches = new Map();

  /** Follows the frames shown of a peer from now on, whatever <video> element shows them. */
  function watch(peer) {
    const seen = { frames: 0, codes: 0, tab: null, count: null, backward: 0, lastShown: performance.now(), longestGap: 0, element: null };
    watches.set(peer, seen);
    const shown = (element) => {
      if (watches.get(peer) !== seen || seen.element !== element) return;
      const now = performance.now();
      seen.longestGap = Math.max(seen.longestGap, now - seen.lastShown);
      seen.lastShown = now;
      seen.frames += 1;
      const code = decode(element);
      if (code && (code.tab !== seen.tab || code.count !== seen.count)) {
        if (seen.count !== null && ((code.count - seen.count) & 0xffff) > 0x8000) seen.backward += 1;
        seen.codes += 1;
        Object.assign(seen, code);
      }
      element.requestVideoFrameCallback(() => shown(element));
    };
    const follow = () => {
      if (watches.get(peer) !== seen) return;
      const element = tile(peer)?.querySelector('video') ?? null;
      if (element !== seen.element) {
        seen.element = element;
        element?.requestVideoFrameCallback(() => shown(element));
      }
      setTimeout(follow, 50);
    };
    follow();
  }

  /** What was seen since `watch`: frames shown, distinct codes read, the last code, and the longest time without a frame, the running one included. */
  function seen(peer) {
    const { element: _, lastShown, ...figures } = watches.get(peer);
    return { ...figures, longestGap: Math.max(figures.longestGap, performance.now() - lastShown) };
  }

  // ---- what is remembered, to be compared later ----

  const kept = new Map();
  const keepConnections = () => {
    for (const [peer, { connection }] of globalThis.call.peers) kept.set(peer, connection);
  };
  const connectionIsKept = (peer) => kept.get(peer) === globalThis.call.peers.get(peer)?.connection;

  // ---- outgoing signals held back ----

  let hold = null;
  const held = [];
  const send = WebSocket.prototype.send;
  WebSocket.prototype.send = function (data) {
    if (hold && typeof data === 'string' && data.includes(hold)) this.heldByProbe = true;
    // Order is kept: once one frame of a socket is held, so are all that follow.
    if (this.heldByProbe) held.push(data);
    else send.call(this, data);
  };

  globalThis.probe = {
    decode,
    watch,
    seen,
    watching: (peer) => watches.has(peer),
    keepConnections,
    connectionIsKept,
    /** Holds back every frame that contains `text`, and all after it on the same socket; null lets frames of other sockets pass again. */
    hold: (text) => { hold = text; },
    held: () => held.length,
  };
})();
