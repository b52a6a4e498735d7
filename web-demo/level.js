// @ts-check
/** How loud a microphone is, shown as a row of lights. */

import { resumeOnGesture } from "./pattern.js";

/** Decibels below full scale at which the first and the last light come on. */
const QUIET_DB = -55;
const LOUD_DB = -12;
const EVERY_MS = 80;

export class LevelMeter {
  /** @type {AudioContext | undefined} */
  #context;
  /** @type {MediaStreamAudioSourceNode | undefined} */
  #source;
  /** @type {AnalyserNode | undefined} */
  #analyser;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #timer;

  /** @param {HTMLElement} meter role="meter" with one child per light */
  constructor(meter) {
    this.meter = meter;
  }

  /** @param {MediaStreamTrack | null} track */
  watch(track) {
    this.#source?.disconnect();
    if (track === null) {
      this.#show(0);
      return;
    }
    if (this.#context === undefined) {
      this.#context = new AudioContext();
      this.#analyser = this.#context.createAnalyser();
      this.#analyser.fftSize = 512;
      resumeOnGesture(this.#context);
      this.#timer = setInterval(() => this.#measure(), EVERY_MS);
    }
    this.#source = this.#context.createMediaStreamSource(new MediaStream([track]));
    this.#source.connect(/** @type {AnalyserNode} */ (this.#analyser));
  }

  stop() {
    clearInterval(this.#timer);
    void this.#context?.close();
    this.#context = undefined;
  }

  #measure() {
    const samples = new Float32Array(512);
    this.#analyser?.getFloatTimeDomainData(samples);
    const power = samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length;
    const decibels = 10 * Math.log10(power + 1e-9);
    this.#show(Math.min(1, Math.max(0, (decibels - QUIET_DB) / (LOUD_DB - QUIET_DB))));
  }

  /** @param {number} level 0 to 1 */
  #show(level) {
    const lights = this.meter.children;
    for (let index = 0; index < lights.length; index += 1) {
      lights[index].classList.toggle("on", level * lights.length > index + 0.3);
    }
    this.meter.setAttribute("aria-valuenow", String(Math.round(level * 100)));
  }
}
