// @ts-check
/**
 * A signaling session that outlives its connections.
 *
 * Every sequenced frame of either direction is delivered exactly once and in order while the session lives:
 * what was sent and not acknowledged is kept (bounded) and sent again over the next connection, what arrives twice
 * is ignored. When the session could not be kept, a `welcome` with outcome `new` or `resync` says so, and its
 * snapshot of the room is the truth. Nothing here knows RTCPeerConnection.
 *
 * A connection is a WebSocket, or where none gets through an event stream, or polls; the session goes on over whichever works, and
 * tries to get back to a better one from time to time. When the server asks for it (`goaway`) the client moves to another server,
 * at the time that it was told and without a gap.
 *
 * ```js
 * const client = new SignalingClient({ url: "wss://host/v1/rooms/lobby/ws", secret: await holdSecret("lobby"), instance: randomText(9) });
 * const mesh = new Mesh({ client, stream });
 * mesh.addEventListener("peer", ({ detail: { peer } }) => peer.addEventListener("track", show));
 * client.connect();
 * ```
 *
 * Events (CustomEvent, the frame or fact in `detail`):
 * `welcome`, `peer_joined`, `peer_changed`, `peer_left`, `room_changed`, `knock`,
 * `knock_ended`, `bans`, `granted`, `signal`, `ice`, `notice`, `error`: the frame;
 * `state`: { state, code?, name?, message?, retry_in_ms? } whenever `client.state` changes; `name` is that of the close code, and
 * `message` what the server, or whoever removed us, said about it.
 *
 * @import { Clock } from "./clock.js"
 * @import { Door, GoAway, Granted, IceServer, ServerFrame, SignalBody, Welcome } from "./protocol.js"
 * @import { Socket, SocketClass } from "./requests.js"
 * @import { TokenOption } from "./token.js"
 * @typedef {"idle" | "connecting" | "open" | "waiting" | "closed"} ClientState
 *   waiting: the connection is lost and the next attempt is scheduled; closed: it will not come back by itself.
 * @typedef {{ socket: Socket, rung: number, url: string }} Connection
 */

import { Backoff } from "./backoff.js";
import { Timer, systemClock } from "./clock.js";
import { Incoming } from "./incoming.js";
import { Ladder, climbAfter, pageHandshake } from "./ladder.js";
import { Outgoing } from "./outgoing.js";
import { CLOSE_NAMES, DEFAULT_GRANTED, DEFAULT_LIMITS, KNOCKING, REPORT_URL_CHARACTERS, SUBPROTOCOL, TOKEN_EXPIRED, UNAUTHORIZED, UNVERIFIED, comeBack, parseFrame, relocated } from "./protocol.js";
import { EventStreamSocket, PollSocket } from "./requests.js";
import { TokenSource } from "./token.js";

/** The session goes on meanwhile, so there is time. */
const CLIMB_DEADLINE_MS = 5_000;
/** After `bye` the server closes; a dead network must not keep the page waiting for that. */
const BYE_DEADLINE_MS = 1_000;
/** Wait before coming back when the server asked for patience and named no time. */
const PATIENCE_MS = 5_000;

export class SignalingClient extends EventTarget {
  /** @type {ClientState} */
  state = "idle";
  /** Our peer id; known from the first welcome on. @type {string | undefined} */
  peer;
  /** @type {IceServer[]} */
  ice = [];
  /** @type {Welcome | undefined} */
  welcome;
  /** What we may do in the room. @type {Granted} */
  granted = DEFAULT_GRANTED;
  /** Who may come into the room. @type {Door} */
  door = "open";

  /** Ends with the session. @type {AbortController | undefined} */
  #listening;
  /** @type {Connection | undefined} */
  #connection;
  /** A connection on a better rung or to another server that may take over from the present one. @type {Connection | undefined} */
  #climbing;
  #climbs = 0;
  /** Where the server wants us to be instead, and how often we tried to get there. @type {{ url: string, tries: number } | undefined} */
  #away;
  /** @type {string | undefined} */
  #resume;
  #outgoing = new Outgoing();
  /** What the last error frame before a close asked for, and said. */
  #retry_after_ms = 0;
  #message = "";
  /** The token was fetched for the present attempt, so it cannot be an old one that is refused. */
  #fresh_token = false;
  /** Counts attempts; what was fetched for an earlier one opens nothing. */
  #attempt = 0;
  #leaving = false;
  /** Connections that said hello, its `attempt`: one that was held up on its way is known by it. */
  #hellos = 0;
  /** Servers that do not know `report` say so once, and count every further one against us. */
  #reports = true;
  /** Before this time the server does not want us back. */
  #welcome_from = 0;

  /**
   * @param {object} options
   * @param {string} options.url ws(s)://host/v1/rooms/{room}/ws
   * @param {string} options.secret 43 characters; whoever has it is this peer
   * @param {string} options.instance 1-32 characters, fresh for every page load
   * @param {string} [options.name] shown to the others, at most 64 characters
   * @param {TokenOption} [options.token] shows that we may enter, where the server asks for that; a function is called again
   *   before the token ends, and when the server says that it has
   * @param {string} [options.password] of the room, where it has one
   * @param {SocketClass} [options.WebSocket]
   * @param {SocketClass[]} [options.fallbacks] what to try where no WebSocket gets through, in this order
   * @param {Clock} [options.clock]
   * @param {() => number} [options.random]
   * @param {Pick<EventTarget, "addEventListener"> | undefined} [options.network] whoever fires `online`
   */
  constructor({ url, secret, instance, name, token, password, WebSocket = /** @type {any} */ (globalThis.WebSocket), fallbacks = [EventStreamSocket, PollSocket], clock = systemClock, random = Math.random, network = browserWindow() }) {
    super();
    this.url = url;
    this.secret = secret;
    this.instance = instance;
    this.name = name;
    this.password = password;
    this.transports = [WebSocket, ...fallbacks];
    this.ladder = new Ladder(this.transports.length, pageHandshake(url));
    this.clock = clock;
    this.random = random;
    this.backoff = new Backoff({ random });
    this.retryTimer = new Timer(clock, () => this.#open());
    this.deadTimer = new Timer(clock, () => this.#lost(4001));
    this.incoming = new Incoming(clock, () => this.#sendUnsequenced("ack"));
    this.flushTimer = new Timer(clock, () => this.#flush());
    this.climbTimer = new Timer(clock, () => (this.#climbing === undefined ? this.#climb() : this.#climbFailed()));
    this.network = network;
    this.tokens = new TokenSource(token, clock, () => void this.#renewToken());
  }

  /** Index in `transports` of the present connection's kind: 0 for a WebSocket. */
  get rung() {
    return this.#connection?.rung;
  }

  /** Starts the session; later losses are repaired without another call. */
  connect() {
    if (this.state !== "idle" && this.state !== "closed") return;
    this.#leaving = false;
    this.#listening = new AbortController();
    this.network?.addEventListener("online", () => this.reconnect(), { signal: this.#listening.signal });
    this.#open();
  }

  /**
   * Takes a new socket now instead of waiting for a timer: the network changed or the machine woke up. The
   * session goes on, and the server lets the new socket take over from the old. A wait that the server asked for
   * is kept; only our own part of it is left out.
   */
  reconnect() {
    if (this.#leaving || this.state === "idle" || this.state === "closed") return;
    const rest_ms = this.#welcome_from - this.clock.now();
    if (this.state === "waiting" && rest_ms > 0) {
      this.retryTimer.arm(rest_ms);
      this.#become("waiting", { retry_in_ms: rest_ms });
      return;
    }
    this.backoff.reset();
    this.ladder.forget();
    this.#climbs = 0;
    this.#open();
  }

  /**
   * Sends a description or a candidate to a peer. While the connection is lost it is kept and sent later.
   * @param {string} to
   * @param {SignalBody} body
   */
  signal(to, body) {
    this.#sendSequenced("signal", { to, ...body });
  }

  /**
   * Tells the operator that a TURN server refused us; the page itself falls back to other candidates.
   * @param {string} url
   * @param {number} code STUN error code
   */
  report(url, code) {
    if (this.#reports && url.length <= REPORT_URL_CHARACTERS) this.#sendUnsequenced("report", { kind: "turn_error", url, code });
  }

  /**
   * Removes a peer from the room, if `granted.may_kick`; the others see `peer_left` with the reason `kicked`.
   * @param {string} to
   * @param {{ ban_ms?: number, reason?: string }} [options] how long it is kept out, and what it is told
   */
  kick(to, { ban_ms, reason } = {}) {
    this.#sendSequenced("kick", { to, ban_ms, reason });
  }

  /** Asks who is kept out of the room, if `granted.may_kick` and the server knows how (`may_lift`); `bans` answers. */
  askForBans() {
    this.#sendSequenced("bans", {});
  }

  /**
   * Lets somebody in again, likewise; `bans` says who is still kept out.
   * @param {string} to
   */
  lift(to) {
    this.#sendSequenced("lift", { to });
  }

  /** Whether we may see who is kept out of the room, and let them in again. */
  get may_lift() {
    return this.granted.may_kick && this.welcome?.features.includes("bans") === true;
  }

  /**
   * Opens the room to newcomers, closes it or has them knock, if `granted.may_lock`; everybody hears `room_changed`.
   * @param {Door} door
   * @param {string} [password] what newcomers have to know from now on; an empty one takes it away
   */
  setDoor(door, password) {
    this.#sendSequenced("door", { door, password });
  }

  /**
   * Answers somebody of whom we heard `knock`, if `granted.may_lock`; `knock_ended` follows.
   * @param {string} to
   * @param {boolean} admit
   */
  answer(to, admit) {
    this.#sendSequenced(admit ? "admit" : "deny", { to });
  }

  /** Leaves for good: the others see `peer_left` at once instead of after the grace period. */
  leave() {
    if (this.#leaving || this.state === "idle" || this.state === "closed") return;
    if (this.state !== "open") {
      this.#end(1000);
      return;
    }
    this.#sendSequenced("bye", {});
    this.#leaving = true;
    this.flushTimer.cancel();
    this.deadTimer.arm(BYE_DEADLINE_MS);
  }

  #open() {
    this.#detach();
    this.retryTimer.cancel();
    this.#retry_after_ms = 0;
    this.#message = "";
    this.#fresh_token = this.tokens.missing;
    if (this.tokens.missing) void this.#fetchAndDial();
    else this.#dial();
    this.#become("connecting");
  }

  #dial() {
    this.ladder.dialed(this.clock.now());
    this.#connection = this.#connect(this.ladder.rung, this.#target());
    this.deadTimer.arm(this.ladder.deadline_ms);
  }

  /** The handshake of a WebSocket succeeded; the others have no handshake of their own. */
  #answered() {
    if (this.state !== "connecting" || this.#connection?.rung !== 0) return;
    this.ladder.answered(this.clock.now());
    this.deadTimer.arm(this.ladder.deadline_ms);
  }

  async #fetchAndDial() {
    const attempt = this.#attempt;
    const fetched = await this.tokens.fetch().catch(() => false);
    if (attempt !== this.#attempt || this.state !== "connecting") return;
    if (fetched) this.#dial();
    else this.#lost(UNVERIFIED);
  }

  /** A further token, while the session goes on. */
  async #renewToken() {
    const fetched = await this.tokens.fetch().catch(() => null);
    if (fetched) this.#sendUnsequenced("token", { token: this.tokens.token });
    else if (fetched === null) this.tokens.again();
  }

  /**
   * @param {number} rung
   * @param {string} url
   * @returns {Connection}
   */
  #connect(rung, url) {
    const socket = new this.transports[rung](url, [SUBPROTOCOL]);
    // A socket that was given up may still speak; only the present one, and one that may become it, are listened to.
    const present = () => this.#connection?.socket === socket;
    const climbing = () => this.#climbing?.socket === socket;
    socket.onopen = () => (present() || climbing()) && this.#opened(socket);
    socket.onmessage = ({ data }) => {
      if (climbing()) this.#takeOver(data);
      else if (present()) this.#receive(data);
    };
    socket.onclose = ({ code }) => {
      if (climbing()) this.#climbFailed();
      else if (present()) this.#closed(code);
    };
    return { socket, rung, url };
  }

  /** Says hello. @param {Socket} socket */
  #opened(socket) {
    if (socket === this.#connection?.socket) this.#answered();
    const ack = this.#resume === undefined ? 0 : this.incoming.received;
    const { secret, instance, name, password, tokens: { token } } = this;
    this.#hellos += 1;
    socket.send(JSON.stringify({ type: "hello", seq: 0, ack, secret, instance, name, resume: this.#resume, token, password, attempt: this.#hellos }));
  }

  /** The server that the next connection goes to. One that does not let us in is given up every second time. */
  #target() {
    if (this.#away === undefined) return this.url;
    this.#away.tries += 1;
    return this.#away.tries % 2 === 1 ? this.#away.url : this.url;
  }

  /**
   * The server wants us to leave: when the time has come a connection elsewhere is tried beside the present one.
   * @param {GoAway} frame
   */
  #goAway({ in_ms, url }) {
    this.#climbing?.socket.close();
    this.#climbing = undefined;
    this.#away = { url: relocated(this.url, url), tries: 0 };
    this.climbTimer.arm(in_ms);
  }

  /** Tries a better rung beside the present connection, each of the better ones in turn; or another server, on the same rung. */
  #climb() {
    if (this.state !== "open" || this.#leaving || this.#connection === undefined) return;
    const { rung } = this.#connection;
    if (this.#away === undefined) {
      this.#climbing = this.#connect(this.#climbs % rung, this.url);
      this.#climbs += 1;
    } else {
      this.#climbing = this.#connect(rung, this.#target());
    }
    this.climbTimer.arm(CLIMB_DEADLINE_MS);
  }

  #climbFailed() {
    this.#climbing?.socket.close();
    this.#climbing = undefined;
    if (this.#away === undefined) this.#climbLater();
    else this.climbTimer.arm(this.backoff.next());
  }

  #climbLater() {
    this.climbTimer.arm(climbAfter(this.#climbs) * (1 + this.random()) / 2);
  }

  /**
   * What came first on the better connection: a welcome means that the session is there now.
   * @param {unknown} data
   */
  #takeOver(data) {
    if (this.#leaving || parseFrame(data)?.type !== "welcome") {
      this.#climbFailed();
      return;
    }
    const former = this.#connection;
    this.#connection = this.#climbing;
    this.#climbing = undefined;
    former?.socket.close();
    this.#receive(data);
  }

  /** @param {number} code */
  #closed(code) {
    if (code === 4203 && this.#climbing !== undefined && this.#away === undefined) {
      // It is we who replaced it; the welcome is still on its way.
      this.#connection = this.#climbing;
      this.#climbing = undefined;
      this.climbTimer.cancel();
      this.deadTimer.arm(CLIMB_DEADLINE_MS);
      this.#become("connecting");
      return;
    }
    this.#lost(code);
  }

  /** @param {unknown} data */
  #receive(data) {
    const frame = parseFrame(data);
    if (frame === null) {
      this.#lost(4200);
      return;
    }
    if (this.#leaving) return;
    if (frame.type === "welcome") {
      this.#welcomed(frame);
      return;
    }
    if (this.state === "open" && this.welcome !== undefined) {
      const { interval_ms, deadline_ms } = this.welcome.ping;
      this.deadTimer.arm(interval_ms + deadline_ms);
      this.#outgoing.acknowledged(frame.ack);
    }
    if (frame.seq === 0) this.#receiveUnsequenced(frame);
    else this.#receiveSequenced(frame);
  }

  /** @param {Welcome} frame */
  #welcomed(frame) {
    if (frame.outcome !== "resumed") {
      this.incoming.begin();
      this.#outgoing.begin();
    }
    this.#resume = frame.resume;
    this.#outgoing.rewind();
    this.incoming.told();
    const first = this.welcome === undefined;
    this.url = this.#connection?.url ?? this.url;
    this.#away = undefined;
    this.peer = frame.peer;
    this.welcome = frame;
    this.ice = frame.ice.servers;
    this.door = frame.room.door ?? "open";
    this.#grantedTo(frame.granted ?? DEFAULT_GRANTED);
    if (first) this.#outgoing.fill(this.clock.now(), this.#limits());
    this.#outgoing.acknowledged(frame.ack);
    this.deadTimer.arm(frame.ping.interval_ms + frame.ping.deadline_ms);
    this.backoff.reset();
    this.#stand();
    this.#become("open");
    // The token that we came with is good until the server has heard us with the new one.
    this.#sendUnsequenced("ack");
    this.#emit("welcome", frame);
    this.#flush();
  }

  /** The present connection works. */
  #stand() {
    const rung = this.#connection?.rung ?? 0;
    this.ladder.proved(rung);
    if (rung > 0) {
      this.#climbLater();
      return;
    }
    this.#climbs = 0;
    this.climbTimer.cancel();
  }

  /** @param {ServerFrame} frame */
  #receiveUnsequenced(frame) {
    if (frame.type === "ping") this.#sendUnsequenced("pong");
    if (frame.type === "goaway") this.#goAway(frame);
    if (frame.type !== "error") return;
    this.#retry_after_ms = frame.retry_after_ms ?? 0;
    this.#message = frame.message;
    this.#emit("error", frame);
  }

  /** @param {ServerFrame} frame */
  #receiveSequenced(frame) {
    if (frame.seq <= this.incoming.received) return;
    if (this.state !== "open" || frame.seq !== this.incoming.received + 1) {
      // A gap cannot be repaired on this socket; the next hello names how far we are.
      this.#lost(4200, "now");
      return;
    }
    this.incoming.took();
    if (frame.type === "ice") this.ice = frame.servers;
    if (frame.type === "room_changed") this.door = frame.door;
    if (frame.type === "granted") this.#grantedTo(frame);
    if (frame.type === "error" && frame.code === "token_unverified") this.tokens.again();
    if (frame.type === "error" && frame.code === "unknown_type") this.#reports = false;
    this.#emit(frame.type, frame);
  }

  /** @param {Granted} granted */
  #grantedTo({ role, may_publish, may_kick, may_lock, expires_in_ms }) {
    this.granted = { role, may_publish, may_kick, may_lock, expires_in_ms };
    this.tokens.counts(expires_in_ms);
  }

  /**
   * @param {string} type
   * @param {object} body
   */
  #sendSequenced(type, body) {
    // Before the first welcome there is nobody to send to.
    if (this.#leaving || this.welcome === undefined || this.state === "closed") return;
    if (this.#outgoing.add(type, body, this.#limits())) this.#flush();
    else this.#giveUpSession();
  }

  /** More is outstanding than may be kept: an honest fresh start instead of a silent gap. */
  #giveUpSession() {
    this.#resume = undefined;
    this.#outgoing.forget();
    if (this.state === "open") this.#lost(4200, "now");
  }

  #flush() {
    if (this.state !== "open") return;
    for (const { seq, type, body } of this.#outgoing.due(this.clock.now(), this.#limits())) {
      this.#transmit({ type, seq, ack: this.incoming.received, ...body });
    }
    const wait_ms = this.#outgoing.wait_ms(this.#limits());
    if (wait_ms !== undefined && !this.flushTimer.armed) this.flushTimer.arm(wait_ms);
  }

  /**
   * @param {string} type
   * @param {object} [body]
   */
  #sendUnsequenced(type, body) {
    if (this.state === "open") this.#transmit({ type, seq: 0, ack: this.incoming.received, ...body });
  }

  /** @param {object} frame */
  #transmit(frame) {
    const socket = this.#connection?.socket;
    if (socket?.readyState !== 1) return;
    this.incoming.told();
    socket.send(JSON.stringify(frame));
  }

  /**
   * The present socket is gone or not worth keeping.
   * @param {number} code
   * @param {"now" | "after" | "never"} [verdict]
   */
  #lost(code, verdict = comeBack(code)) {
    // Codes of the server show that the transport works; an own deadline (4001) shows that it may not.
    const unheard = this.state === "connecting" && (code < 4000 || code === 4001);
    this.#detach();
    const old_token = code === TOKEN_EXPIRED || code === UNAUTHORIZED && !this.#fresh_token;
    if (old_token && this.tokens.renewable && !this.#leaving) {
      this.tokens.forget();
      verdict = "now";
    }
    if (this.#leaving || verdict === "never") {
      this.#end(code);
      return;
    }
    if (unheard && this.ladder.failed()) {
      this.#open();
      return;
    }
    // The server answers each time, so this is no failure that asks for longer and longer waits.
    if (code === KNOCKING) this.backoff.reset();
    const patience_ms = verdict === "after" ? this.#retry_after_ms || PATIENCE_MS : this.#retry_after_ms;
    this.#welcome_from = this.clock.now() + patience_ms;
    const retry_in_ms = this.backoff.next(patience_ms);
    this.retryTimer.arm(retry_in_ms);
    this.#become("waiting", { code, ...this.#reason(code), retry_in_ms });
  }

  /** @param {number} code */
  #end(code) {
    this.#detach();
    this.retryTimer.cancel();
    this.#resume = undefined;
    this.#outgoing.forget();
    this.#listening?.abort();
    this.#become("closed", { code, ...this.#reason(code) });
  }

  /** @param {number} code */
  #reason(code) {
    return { name: CLOSE_NAMES[code], message: this.#message };
  }

  #detach() {
    this.#attempt += 1;
    this.tokens.timer.cancel();
    const sockets = [this.#connection?.socket, this.#climbing?.socket];
    this.#connection = undefined;
    this.#climbing = undefined;
    for (const timer of [this.deadTimer, this.incoming.timer, this.flushTimer, this.climbTimer]) timer.cancel();
    for (const socket of sockets) if (socket !== undefined && socket.readyState < 2) socket.close();
  }

  #limits() {
    return this.welcome?.limits ?? DEFAULT_LIMITS;
  }

  /**
   * @param {ClientState} state
   * @param {{ code?: number, name?: string, message?: string, retry_in_ms?: number }} [facts]
   */
  #become(state, facts = {}) {
    this.state = state;
    this.#emit("state", { state, ...facts });
  }

  /**
   * @param {string} type
   * @param {object} detail
   */
  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** @returns {Window | undefined} */
function browserWindow() {
  return typeof window === "undefined" ? undefined : window;
}
