// @ts-check
/**
 * What this person sends: camera, microphone and screen, or their stand-ins. Owns the devices and gives them back
 * when they are off, so that the camera's light tells the truth. Knows no peers.
 *
 * A choice is "none", "test" (drawn picture, tone), "default", or a device id.
 * Events: `track` { kind }: `outgoing(kind)` changed; `change`: muted, camera, screen or choices changed;
 * `problem` { problem, kind? }.
 *
 * @import { Kind } from "./sdk/peer.js"
 * @import { Source } from "./pattern.js"
 * @typedef {"insecure" | "denied" | "missing" | "busy" | "ended" | "screen"} Problem
 */

import { testPicture, testTone } from "./pattern.js";

/** In a mesh everybody encodes once per peer; 540 lines keep a phone cool. */
const VIDEO = { width: { ideal: 960 }, height: { ideal: 540 }, frameRate: { max: 30 }, facingMode: "user" };
const AUDIO = { echoCancellation: true, noiseSuppression: true, autoGainControl: true };

/** The picture is asked for first. @type {Kind[]} */
const KINDS = ["video", "audio"];

export class LocalMedia extends EventTarget {
  /** @type {Record<Kind, string>} */
  choice = { audio: "default", video: "default" };
  muted = false;
  /** Whether the person wants to be seen; outlives a call, so that rejoining does not switch the camera on. */
  cameraOn = true;
  /** The id under which the tracks travel. */
  stream = new MediaStream();

  /** @type {Partial<Record<Kind, Source>>} */
  #sources = {};
  /** @type {Source | undefined} */
  #screen;
  /** Only the newest choice of a kind counts when several are under way. */
  #turn = { audio: 0, video: 0 };
  /** The question which screen to share that is open now. @type {object | undefined} */
  #asking;
  /** Between `start` and `stop`; at other times a choice is remembered and nothing is opened. */
  #running = false;

  constructor() {
    super();
    navigator.mediaDevices?.addEventListener("devicechange", () => this.#changed());
  }

  /** Whether the browser lets this page near devices at all. */
  get secure() {
    return navigator.mediaDevices !== undefined;
  }

  get sharing() {
    return this.#screen !== undefined;
  }

  /** True when a picture of the person (or its stand-in) is being made. */
  get hasCamera() {
    return this.#sources.video !== undefined;
  }

  get hasMicrophone() {
    return this.#sources.audio !== undefined;
  }

  /**
   * The id of the device in use.
   * @param {Kind} kind
   */
  device(kind) {
    return this.#sources[kind]?.track.getSettings().deviceId;
  }

  /**
   * What the others should get: the screen goes before the camera.
   * @param {Kind} kind
   * @returns {MediaStreamTrack | null}
   */
  outgoing(kind) {
    if (kind === "video" && this.#screen !== undefined) return this.#screen.track;
    return this.#sources[kind]?.track ?? null;
  }

  /**
   * Opens the remembered or default devices; asks for both permissions at once. What the person chooses while the
   * browser asks, and `stop`, go before the answer.
   */
  async start() {
    this.#running = true;
    const wanted = KINDS.filter((kind) => kind === "audio" || this.cameraOn);
    if (!this.secure) {
      const refused = wanted.filter((kind) => isDevice(this.choice[kind]));
      await Promise.all(wanted.map((kind) => this.choose(kind, refused.includes(kind) ? "none" : this.choice[kind])));
      if (refused.length > 0) this.#problem("insecure");
      return;
    }
    const turns = { audio: ++this.#turn.audio, video: ++this.#turn.video };
    const overtaken = (/** @type {Kind} */ kind) => turns[kind] !== this.#turn[kind];
    if (wanted.length === 2 && wanted.every((kind) => isDevice(this.choice[kind]))) {
      const both = await openBoth(this.choice).catch(() => []);
      for (const track of both) {
        const kind = /** @type {Kind} */ (track.kind);
        if (overtaken(kind)) track.stop();
        else this.#adopt(kind, deviceSource(track));
      }
      this.#changed();
      if (both.length > 0) return;
    }
    // One of the two failed, and one answer for both hides which: ask for each.
    /** @type {(Problem | undefined)[]} */
    const problems = [];
    for (const kind of wanted) {
      if (!overtaken(kind)) problems.push(await this.choose(kind, this.choice[kind]));
    }
    const problem = worst(problems);
    if (problem !== undefined) this.#problem(problem);
  }

  /**
   * Switches a kind to another source. On failure it is "none" and the problem is returned. A failure that comes
   * after another choice is nobody's problem.
   * @param {Kind} kind
   * @param {string} choice
   * @returns {Promise<Problem | undefined>}
   */
  async choose(kind, choice) {
    this.#turn[kind] += 1;
    const turn = this.#turn[kind];
    // Phones open one camera at a time, so the old one goes first.
    this.#release(kind);
    this.choice[kind] = choice;
    if (kind === "video") this.cameraOn = choice !== "none";
    let problem;
    try {
      const source = this.#running ? await open(kind, choice) : undefined;
      if (turn !== this.#turn[kind]) source?.stop();
      else if (source !== undefined) this.#adopt(kind, source);
    } catch (error) {
      if (turn === this.#turn[kind]) {
        problem = problemOf(error);
        this.choice[kind] = "none";
      }
    }
    this.#changed();
    return problem;
  }

  /** @param {boolean} muted */
  async setMuted(muted) {
    this.muted = muted;
    if (!muted && this.choice.audio === "none") {
      const problem = await this.choose("audio", this.secure ? "default" : "test");
      if (problem !== undefined) this.#problem(problem);
    }
    const track = this.#sources.audio?.track;
    if (track !== undefined) track.enabled = !muted;
    this.#changed();
  }

  /** @param {boolean} on */
  async setCamera(on) {
    if (on) {
      const choice = this.choice.video === "none" ? (this.secure ? "default" : "test") : this.choice.video;
      const problem = await this.choose("video", choice);
      if (problem !== undefined) this.#problem(problem);
      return;
    }
    this.#turn.video += 1;
    this.#release("video");
    this.cameraOn = false;
    this.#changed();
  }

  /** Asks which screen to share, one question at a time. An answer that comes after `stop` shares nothing. */
  async shareScreen() {
    if (this.#asking !== undefined || this.sharing || !this.#running) return;
    const asking = {};
    this.#asking = asking;
    try {
      const stream = await navigator.mediaDevices.getDisplayMedia({ video: { frameRate: { max: 15 } } });
      if (this.#asking !== asking) {
        for (const track of stream.getTracks()) track.stop();
        return;
      }
      const [track] = stream.getVideoTracks();
      track.contentHint = "detail";
      const source = deviceSource(track);
      track.addEventListener("ended", () => {
        if (this.#screen === source) this.stopScreen();
      });
      this.#screen = source;
      this.#announce("video");
    } catch (error) {
      // Closing the browser's own dialog is an answer, not a problem.
      const refused = error instanceof DOMException && error.name === "NotAllowedError";
      if (!refused && this.#asking === asking) this.#problem("screen");
    } finally {
      if (this.#asking === asking) this.#asking = undefined;
    }
    this.#changed();
  }

  stopScreen() {
    this.#asking = undefined;
    this.#screen?.stop();
    this.#screen = undefined;
    this.#announce("video");
    this.#changed();
  }

  /** Gives every device back. */
  stop() {
    this.#running = false;
    this.#turn.audio += 1;
    this.#turn.video += 1;
    this.#asking = undefined;
    this.#screen?.stop();
    this.#screen = undefined;
    this.#release("audio");
    this.#release("video");
  }

  /**
   * @param {Kind} kind
   * @param {Source} source
   */
  #adopt(kind, source) {
    this.#release(kind);
    this.#sources[kind] = source;
    if (kind === "audio") source.track.enabled = !this.muted;
    source.track.addEventListener("ended", () => {
      if (this.#sources[kind] === source) void this.#unplugged(kind);
    });
    this.#announce(kind);
  }

  /**
   * The device was taken away: another of its kind may take its place.
   * @param {Kind} kind
   */
  async #unplugged(kind) {
    const problem = await this.choose(kind, "default");
    if (problem !== undefined) this.#problem("ended", kind);
  }

  /** @param {Kind} kind */
  #release(kind) {
    const source = this.#sources[kind];
    if (source === undefined) return;
    delete this.#sources[kind];
    source.stop();
    this.#announce(kind);
  }

  /** @param {Kind} kind */
  #announce(kind) {
    this.dispatchEvent(new CustomEvent("track", { detail: { kind } }));
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }

  /**
   * @param {Problem} problem
   * @param {Kind} [kind]
   */
  #problem(problem, kind) {
    this.dispatchEvent(new CustomEvent("problem", { detail: { problem, kind } }));
  }
}

/** @param {string} choice */
function isDevice(choice) {
  return choice !== "none" && choice !== "test";
}

/**
 * @param {Kind} kind
 * @param {string} choice
 * @returns {Promise<Source | undefined>}
 */
async function open(kind, choice) {
  if (choice === "none") return undefined;
  if (choice === "test") return kind === "video" ? testPicture() : testTone();
  const stream = await navigator.mediaDevices.getUserMedia({ [kind]: constraints(kind, choice) });
  return deviceSource(stream.getTracks()[0]);
}

/**
 * @param {Record<Kind, string>} choice both devices
 * @returns {Promise<MediaStreamTrack[]>}
 */
async function openBoth(choice) {
  const stream = await navigator.mediaDevices.getUserMedia({
    audio: constraints("audio", choice.audio),
    video: constraints("video", choice.video),
  });
  return stream.getTracks();
}

/**
 * @param {Kind} kind
 * @param {string} choice
 * @returns {MediaTrackConstraints}
 */
function constraints(kind, choice) {
  const wishes = kind === "video" ? VIDEO : AUDIO;
  if (choice === "default") return wishes;
  const { facingMode: _, ...rest } = /** @type {MediaTrackConstraints} */ (wishes);
  return { ...rest, deviceId: { exact: choice } };
}

/**
 * @param {MediaStreamTrack} track
 * @returns {Source}
 */
function deviceSource(track) {
  return { track, stop: () => track.stop() };
}

/**
 * @param {unknown} error
 * @returns {Problem}
 */
function problemOf(error) {
  const name = error instanceof DOMException ? error.name : "";
  if (navigator.mediaDevices === undefined) return "insecure";
  if (name === "NotAllowedError" || name === "SecurityError") return "denied";
  if (name === "NotFoundError" || name === "OverconstrainedError") return "missing";
  return "busy";
}

/**
 * The one problem worth telling, when there are two.
 * @param {(Problem | undefined)[]} problems
 */
function worst(problems) {
  return /** @type {Problem[]} */ (["denied", "busy", "missing"]).find((problem) => problems.includes(problem));
}

/**
 * The devices to choose from. Before permission is given, browsers list them without names.
 * @param {MediaDeviceKind} kind
 */
export async function devices(kind) {
  if (navigator.mediaDevices === undefined) return [];
  const all = await navigator.mediaDevices.enumerateDevices();
  return all.filter((device) => device.kind === kind && device.deviceId !== "");
}
