// @ts-check
/**
 * A drawn picture and a soft tone for people without camera or microphone, and for tests: nothing here touches a
 * device. Under the clock the number of the drawn frame stands as 16 dark or light blocks, most significant first, so
 * that a receiver can tell from the pixels alone which picture arrived.
 */

const WIDTH = 640;
const HEIGHT = 360;
const FRAMES_PER_SECOND = 20;
const CODE_BITS = 16;
/** Blocks of 16 by 16 pixels are one macroblock, which survives the coarsest quantisation of a video encoder. */
const CODE_BLOCK = 16;

/** A track that can be given up. @typedef {{ track: MediaStreamTrack, stop(): void }} Source */

/**
 * The test picture: slow waves under a clock that shows its hue, which differs from person to person.
 * @returns {Source}
 */
export function testPicture() {
  const canvas = document.createElement("canvas");
  canvas.width = WIDTH;
  canvas.height = HEIGHT;
  const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { alpha: false }));
  const hue = Math.floor(Math.random() * 360);
  let frame = 0;
  const draw = () => {
    frame += 1;
    drawSky(pen, hue);
    drawWaves(pen, hue, frame / FRAMES_PER_SECOND);
    drawClock(pen);
    drawCode(pen, frame);
  };
  draw();
  const timer = setInterval(draw, 1000 / FRAMES_PER_SECOND);
  const [track] = canvas.captureStream(FRAMES_PER_SECOND).getVideoTracks();
  return {
    track,
    stop() {
      clearInterval(timer);
      track.stop();
    },
  };
}

/**
 * @param {CanvasRenderingContext2D} pen
 * @param {number} hue
 */
function drawSky(pen, hue) {
  const sky = pen.createLinearGradient(0, 0, 0, HEIGHT);
  sky.addColorStop(0, `hsl(${hue} 38% 20%)`);
  sky.addColorStop(1, `hsl(${(hue + 40) % 360} 55% 58%)`);
  pen.fillStyle = sky;
  pen.fillRect(0, 0, WIDTH, HEIGHT);
}

/**
 * @param {CanvasRenderingContext2D} pen
 * @param {number} hue
 * @param {number} seconds
 */
function drawWaves(pen, hue, seconds) {
  for (let layer = 0; layer < 4; layer += 1) {
    pen.fillStyle = `hsl(${(hue + 20 * layer) % 360} 50% ${50 - layer * 9}% / 0.75)`;
    pen.beginPath();
    pen.moveTo(0, HEIGHT);
    for (let x = 0; x <= WIDTH; x += 16) {
      const swell = Math.sin(x / (90 + layer * 25) + seconds * (0.9 - layer * 0.12) + layer * 1.7);
      pen.lineTo(x, HEIGHT * (0.58 + layer * 0.1) + swell * (20 - layer * 3));
    }
    pen.lineTo(WIDTH, HEIGHT);
    pen.fill();
  }
}

/** @param {CanvasRenderingContext2D} pen */
function drawClock(pen) {
  pen.fillStyle = "rgb(255 255 255 / 0.92)";
  pen.textAlign = "center";
  pen.font = "300 64px system-ui, sans-serif";
  pen.fillText(new Date().toTimeString().slice(0, 8), WIDTH / 2, HEIGHT * 0.41);
}

/**
 * @param {CanvasRenderingContext2D} pen
 * @param {number} frame
 */
function drawCode(pen, frame) {
  const left = (WIDTH - CODE_BITS * CODE_BLOCK) / 2;
  const top = 11 * CODE_BLOCK;
  for (let bit = 0; bit < CODE_BITS; bit += 1) {
    pen.fillStyle = (frame >> (CODE_BITS - 1 - bit)) & 1 ? "#fff" : "#10181a";
    pen.fillRect(left + bit * CODE_BLOCK, top, CODE_BLOCK, CODE_BLOCK);
  }
}

/**
 * The test tone: two quiet notes that swell every two seconds.
 * @returns {Source}
 */
export function testTone() {
  const context = new AudioContext();
  const destination = context.createMediaStreamDestination();
  const volume = context.createGain();
  volume.gain.value = 0.05;
  const swell = context.createOscillator();
  const depth = context.createGain();
  swell.frequency.value = 0.5;
  depth.gain.value = 0.045;
  swell.connect(depth).connect(volume.gain);
  const notes = [330, 495].map((frequency) => {
    const note = context.createOscillator();
    note.frequency.value = frequency;
    note.connect(volume);
    return note;
  });
  volume.connect(destination);
  for (const source of [swell, ...notes]) source.start();
  resumeOnGesture(context);
  const [track] = destination.stream.getAudioTracks();
  return {
    track,
    stop() {
      track.stop();
      void context.close();
    },
  };
}

/**
 * Browsers keep an AudioContext suspended until the person does something.
 * @param {AudioContext} context
 */
export function resumeOnGesture(context) {
  const resume = () => {
    // Rejects when the context is closed before a gesture came, which is nobody's loss.
    if (context.state === "suspended") context.resume().catch(() => undefined);
  };
  resume();
  for (const gesture of ["pointerdown", "keydown"]) window.addEventListener(gesture, resume, { once: true });
}
