/*
 * ws4redis.js: the browser side of channels_ws4redis. No dependency, no build step. Licence MIT.
 *
 * MODERN USE
 *
 *   const socket = WS4Redis.connect('/ws/chat?subscribe-broadcast&publish-broadcast');
 *   socket.addEventListener('message', (event) => show(event.detail.data));
 *   socket.send('hello');
 *
 * WS4Redis.connect(uri, options), the same as new WS4Redis.Socket(uri, options), gives an
 * EventTarget that speaks the protocol ws4redis.v1. It comes back after every interruption, for
 * ever, unless the server forbids it. What was published in between then arrives in order and once,
 * or a `lost` event tells that it cannot.
 *
 *   uri         absolute or relative address, or a function that returns one for each attempt;
 *               a relative one becomes ws: or wss:, as the page is http: or https:
 *   positions   {label: {epoch, offset}} from where to go on, e.g. stamped into the page
 *   offline     'refuse' (default): send() returns false while the socket is not open
 *               'queue': send() keeps the message until the socket is open again
 *   queueLimit  how many messages are kept at most (default 100); beyond it send() returns false
 *   start       false: wait for open()
 *   env         replacements for WebSocket, setTimeout, clearTimeout, random, window, document and
 *               location (for tests)
 *
 *   socket.state             'connecting', 'open', 'waiting' (for the next attempt) or 'closed'
 *   socket.positions         a copy of the newest positions; another socket can go on from them
 *   socket.send(data)        publishes a string, ArrayBuffer, view or Blob; returns true if it was
 *                            sent or queued, false if it was refused
 *   socket.sendJSON(value)
 *   socket.close(code, reason)
 *   socket.open()            after close(), after a final close code, or with start: false
 *   socket.reconnect(delay)  gives up the link and comes back after `delay` ms (default 0), e.g.
 *                            after a login, which changes what a socket may hear
 *
 * Events and their event.detail; a state event comes before the event that tells its reason.
 *
 *   state       {state, previous}
 *   open        {channels}: what the server said of each channel, by label
 *   message     {channel, data, epoch, offset, json}: data is a string, or a Uint8Array where the
 *               payload is no text; json is the parsed data, and throws if that is no JSON
 *   recovered   {channel, messages}: all that was missed has arrived, so many messages
 *   lost        {channel, epoch, offset}: up to this position, messages are missing, or may be;
 *               after a reconnect, those that are still stored follow
 *   close       {code, reason, delay}: a link or an attempt has ended; the next attempt follows
 *               after `delay` ms, or never if null
 *   revoked     {code, reason}, after the close event: the socket may not hear any more what it has
 *               heard, and stays away until reconnect() or open(), e.g. after a login
 *
 * A label is 'broadcast', 'user', 'session' or 'group:<name>'.
 *
 * NO CODE IN THE PAGE (works with a strict Content-Security-Policy)
 *
 *   <script src=".../ws4redis.js" data-ws4redis-uri="/ws/chat?subscribe-broadcast"
 *           data-ws4redis-name="chat" data-ws4redis-positions="{...}"
 *           data-ws4redis-options="{...}"></script>
 *
 * Only the uri is required. The name is 'default' if left out; positions and options are JSON. The
 * socket is at WS4Redis.sockets.chat from then on. It connects after the document has been parsed
 * and its deferred scripts and modules have run, so that they miss nothing; just before that, the
 * document gets the event 'ws4redis:ready' with the detail {name, socket}.
 *
 * LEGACY CALL
 *
 *   WS4Redis({uri, receive_message, heartbeat_msg, connecting, connected, disconnected}, $)
 *
 * with or without `new`; the second argument, jQuery, is neither needed nor used. It speaks raw
 * frames. connecting(), connected(), disconnected(closeEvent) and receive_message(data) are
 * callbacks. Methods: send_message(data), close(), get_state(), is_connecting(), is_connected(),
 * is_closing(), is_closed().
 */
(function (root) {
  'use strict';

  const PROTOCOL = 'ws4redis.v1';
  const MANUAL = 'https://channels-ws4redis.readthedocs.io/en/latest/troubleshooting.html';
  const CONNECTING = 0, OPEN = 1, CLOSING = 2, CLOSED = 3;
  const POLICY_VIOLATION = 1008;
  const TRY_AGAIN_LATER = 1013;
  const RETRY_AFTER = /^retry-after=(\d{1,9})$/;
  const FIRST_FINAL_CODE = 4500;    // a client that has broken the protocol; all above: revoked

  // Milliseconds.
  const MIN_DELAY = 500;            // before another attempt
  const MAX_DELAY = 30000;
  const CONNECT_TIMEOUT = 20000;    // from the attempt to the first answer; Firefox has the same
  const STABLE_AFTER = 5000;        // a link shorter than this does not reset the backoff
  const MAX_RETRY_AFTER = 300000;   // that a server may ask for
  const PROBE_TIMEOUT = 5000;       // for an answer to a ping
  const LEGACY_HEARTBEAT = 5000;
  const LEGACY_MISSED_LIMIT = 3;
  const DEFAULT_HEARTBEAT = 25;     // seconds, for a server that does not say

  // What the console says of ends that somebody can do something about, by their codes. A browser
  // tells scripts no more than a code, and not even that of a refusal.
  const NO_CODE = 1006;
  const EXPLANATIONS = {
    [NO_CODE]: 'it was refused, and the server has logged why, or there is no server; '
      + 'the browser shows a refusal as the status 403',
    [POLICY_VIOLATION]: 'the server sent it away',
    1009: 'a message of the page was too large',
    1011: 'the server failed',
    [TRY_AGAIN_LATER]: 'the server has too much to do, or no Redis, or it exceeds a limit; '
      + 'the server has logged which',
    4002: 'the page read too slowly',
    [FIRST_FINAL_CODE]: 'the server did not understand this client',
  };
  const REVOKED = 'it may not hear any more what it has heard';

  function environment(replacements) {
    return Object.assign({
      WebSocket: root.WebSocket,
      setTimeout: (action, delay) => root.setTimeout(action, delay),
      clearTimeout: (handle) => root.clearTimeout(handle),
      random: Math.random,
      window: root,
      document: root.document,
      location: root.location,
    }, replacements);
  }

  /** A method of the document, which an element of the page that has its name would hide. */
  function unhidden(document, method) {
    const own = document instanceof EventTarget ? EventTarget.prototype[method] : document[method];
    return own.bind(document);
  }

  function requireURI(uri) {
    if (uri === undefined || uri === null) {
      throw new Error('No Websocket URI in options');
    }
    return uri;
  }

  function absoluteURI(uri, location) {
    if (/^wss?:/i.test(uri)) {
      return uri;
    }
    const url = new URL(uri, location && location.href);
    url.protocol = url.protocol.replace('http', 'ws');
    return url.href;
  }

  /** One action that can be put off, and put off again. */
  class Timer {
    constructor(env, action) {
      this.env = env;
      this.action = action;
      this.handle = null;
    }

    get running() {
      return this.handle !== null;
    }

    start(delay) {
      this.stop();
      this.handle = this.env.setTimeout(() => {
        this.handle = null;
        this.action();
      }, delay);
    }

    stop() {
      if (this.running) {
        this.env.clearTimeout(this.handle);
        this.handle = null;
      }
    }
  }

  /**
   * A WebSocket that comes back, whatever is spoken on it.
   *
   * Its hooks are connecting(), opened(), received(data), closed(event, delay) and probe(); the
   * last asks to find out soon whether the link is still alive.
   */
  class Link {
    constructor(uri, protocols, env, hooks) {
      this.uri = uri;
      this.protocols = protocols;
      this.env = env;
      this.hooks = hooks;
      this.ws = null;
      this.wanted = false;
      this.attempts = 0;
      this.url = null;              // of the present WebSocket, or of the last one
      this.opened = false;          // whether it has been open
      this.explained = null;        // the code of the last end that the console tells of
      this.retry = new Timer(env, () => this.connect());
      this.deadline = new Timer(env, () => this.drop('No answer'));
      this.stable = new Timer(env, () => {
        this.attempts = 0;
        this.explained = null;
      });
      this.wake = this.wake.bind(this);
    }

    get readyState() {
      return this.ws ? this.ws.readyState : CLOSED;
    }

    open() {
      this.wanted = true;
      this.listen('addEventListener');
      this.connect();
    }

    /** Stop for good; the browser's close event still goes to the closed hook. */
    close(code, reason) {
      this.stop();
      if (this.ws) {
        this.ws.close(code, reason);
      }
    }

    /** Come back without waiting for the other side to close the present link: it may be gone. */
    drop(reason, delay) {
      this.ended({ type: 'close', code: 1006, reason, wasClean: false }, delay);
    }

    send(data) {
      if (this.ws) {
        this.ws.send(data);
      }
    }

    /** To be called when the other side has answered as it should. */
    established() {
      this.deadline.stop();
      this.stable.start(STABLE_AFTER);
    }

    connect() {
      this.release();
      try {
        this.hooks.connecting();
      } finally {
        if (this.wanted) {
          this.attempt();
        }
      }
    }

    attempt() {
      const hooks = this.hooks;
      try {
        const uri = typeof this.uri === 'function' ? this.uri() : this.uri;
        const ws = new this.env.WebSocket(absoluteURI(uri, this.env.location), ...this.protocols);
        this.url = ws.url;
        this.opened = false;
        ws.onopen = () => {
          this.opened = true;
          hooks.opened();
        };
        ws.onmessage = (event) => hooks.received(event.data);
        ws.onclose = (event) => this.ended(event);
        this.ws = ws;
        this.deadline.start(CONNECT_TIMEOUT);
      } catch (error) {
        root.console.error(error);
        this.drop(String(error));
      }
    }

    ended(event, delay) {
      const { wanted } = this;  // else the page itself has closed it
      this.release();
      if (event.code === POLICY_VIOLATION || event.code >= FIRST_FINAL_CODE) {
        this.stop();
      }
      if (!this.wanted) {
        delay = null;
      } else {
        delay = delay === undefined ? Math.max(this.backoff(), this.askedFor(event)) : delay;
        this.retry.start(delay);
      }
      if (wanted) {
        this.explain(event, delay);
      }
      this.hooks.closed(event, delay);
    }

    /** Say in the console, once for each code, why there is no link. */
    explain({ code, reason }, delay) {
      const why = code > FIRST_FINAL_CODE ? REVOKED : EXPLANATIONS[code];
      // By the network, as happens to everybody, or by drop(), which has a reason.
      const isCut = code === NO_CODE && (this.opened || reason);
      if (why && !isCut && code !== this.explained) {
        this.explained = code;
        const given = reason ? `${code} (${reason})` : code;
        const next = delay === null ? 'stays away' : `tries again in ${Math.ceil(delay / 1000)} s`;
        root.console.warn(
          `WS4Redis: the socket ${this.url} ended with ${given}: ${why}. It ${next}. See ${MANUAL}`,
        );
      }
    }

    /** Full jitter: the window doubles with each attempt, the delay is anywhere in it. */
    backoff() {
      this.attempts += 1;
      const ceiling = Math.min(MAX_DELAY, 1000 * Math.pow(2, this.attempts));
      return MIN_DELAY + this.env.random() * (ceiling - MIN_DELAY);
    }

    /** A server with too much to do says for how long to stay away; not all come back at once. */
    askedFor({ code, reason }) {
      const [, seconds] = (code === TRY_AGAIN_LATER && RETRY_AFTER.exec(reason)) || [];
      return seconds ? Math.min(MAX_RETRY_AFTER, 1000 * seconds) * (1 + this.env.random()) : 0;
    }

    /** Forget the WebSocket; no event of it is heard from now on. */
    release() {
      const ws = this.ws;
      this.retry.stop();
      this.deadline.stop();
      this.stable.stop();
      if (ws) {
        this.ws = ws.onopen = ws.onmessage = ws.onclose = null;
        ws.close();
      }
    }

    stop() {
      this.wanted = false;
      this.listen('removeEventListener');
      this.retry.stop();
      this.deadline.stop();
      this.stable.stop();
    }

    listen(method) {
      const { window, document } = this.env;
      if (window && window[method]) {
        window[method]('online', this.wake);
        window[method]('pageshow', this.wake);
      }
      if (document) {
        unhidden(document, method)('visibilitychange', this.wake);
      }
    }

    wake(event) {
      if (event.type === 'visibilitychange' && this.env.document.hidden) {
        return;
      }
      if (this.retry.running) {
        this.connect();
      } else if (this.readyState === OPEN) {
        this.hooks.probe();
      }
    }
  }

  /**
   * Where the client stands in the history of one channel.
   *
   * `known` is the position that the server is told on reconnecting. `epoch` and `seen` tell what
   * has been delivered, so that nothing is delivered twice. `replay` is there while stored or
   * missed messages arrive. Its end brings the client to `top`, even where the newest messages
   * were not stored.
   */
  class Track {
    constructor(known) {
      this.known = known ? { epoch: known.epoch, offset: known.offset } : null;
      this.epoch = known ? known.epoch : null;
      this.seen = known ? known.offset : -1;
      this.replay = null;
    }

    reached(epoch, offset) {
      return this.known !== null && this.known.epoch === epoch && this.known.offset >= offset;
    }

    /** The server told what follows; `count` is undefined if it did not say how many messages. */
    begin({ epoch, offset: top, recovered, replay: count }) {
      // Offsets go back if the store was restored to an older state; they will be used again.
      if (epoch !== this.epoch || (!recovered && top < this.seen)) {
        this.epoch = epoch;
        this.seen = -1;
      }
      // What was recovered has no gaps: its last message tells the end better than their number.
      const left = count === undefined || (recovered && count > 0) ? Infinity : count;
      this.replay = { top, recovered, left, messages: 0, counted: count !== undefined };
      if (!this.known && count > 0) {
        // If the link breaks before the replay has arrived, this makes the server send it again.
        this.known = { epoch, offset: Math.max(0, top - count) };
      }
      return left === 0 || (recovered && this.reached(epoch, top)) ? this.finish() : null;
    }

    /**
     * Whether a message is new; it then is the newest one. The first message of a channel has
     * another epoch than the empty history before it, and follows on that without a loss.
     */
    take({ epoch, offset }) {
      if (epoch !== this.epoch) {
        this.replay = null;
      } else if (offset <= this.seen) {
        return false;
      }
      this.epoch = epoch;
      this.seen = offset;
      if (!this.reached(epoch, offset)) {
        this.known = { epoch, offset };
      }
      return true;
    }

    /** Count what arrived, and what of it was new; returns the replay at its end. */
    count(arrived, fresh) {
      const replay = this.replay;
      if (!replay) {
        return null;
      }
      replay.left -= arrived;
      replay.messages += fresh;
      return replay.left <= 0 || this.seen >= replay.top ? this.finish() : null;
    }

    /** What is missing up to here is gone for good; the next message has the next offset. */
    lose({ epoch, offset }) {
      this.replay = null;
      this.epoch = epoch;
      this.seen = offset;
      this.known = { epoch, offset };
    }

    /** A heartbeat ends a replay of unknown length, as the server sends everything in order. */
    settle() {
      return this.replay && !this.replay.counted ? this.finish() : null;
    }

    finish() {
      const replay = this.replay;
      this.replay = null;
      this.known = { epoch: this.epoch, offset: Math.max(this.seen, replay.top) };
      return replay;
    }
  }

  /** The payload of a `message` event. */
  class Message {
    constructor({ channel, data, base64, epoch, offset }) {
      this.channel = channel;
      this.data = base64 === undefined
        ? data
        : Uint8Array.from(root.atob(base64), (character) => character.charCodeAt(0));
      this.epoch = epoch;
      this.offset = offset;
    }

    get json() {
      return JSON.parse(this.data);
    }
  }

  class Socket extends EventTarget {
    constructor(uri, options) {
      super();
      const { positions, offline, queueLimit, start, env } = options || {};
      this.state = 'closed';
      this._queue = [];
      this._queueLimit = offline !== 'queue' ? 0 : queueLimit === undefined ? 100 : queueLimit;
      this._tracks = new Map();
      Object.entries(positions || {}).forEach(([label, known]) => {
        this._tracks.set(label, new Track(known));
      });
      const environ = environment(env);
      this._watch = new Timer(environ, () => this._silence());
      this._link = new Link(requireURI(uri), [PROTOCOL], environ, {
        connecting: () => this._enter('connecting'),
        opened: () => this._transmit({ type: 'hello', positions: this.positions }),
        received: (data) => this._received(data),
        closed: (event, delay) => this._closed(event, delay),
        probe: () => this.state === 'open' && this._probe(),
      });
      if (start !== false) {
        this.open();
      }
    }

    get positions() {
      const known = {};
      this._tracks.forEach((track, label) => {
        if (track.known) {
          known[label] = Object.assign({}, track.known);
        }
      });
      return known;
    }

    open() {
      if (this.state === 'closed') {
        this._link.open();
      }
    }

    close(code, reason) {
      // Without a code the browser sends none; a server then knows less than it could.
      this._link.close(code === undefined ? 1000 : code, reason);
      this._finish();
    }

    reconnect(delay) {
      if (this.state === 'closed') {
        this.open();
      } else {
        this._link.drop('Reconnecting', delay || 0);
      }
    }

    send(data) {
      const frame = typeof data === 'string' ? JSON.stringify({ type: 'publish', data }) : data;
      if (this.state === 'open' && this._link.readyState === OPEN) {
        this._link.send(frame);
        return true;
      }
      if (this.state === 'closed' || this._queue.length >= this._queueLimit) {
        return false;
      }
      this._queue.push(frame);
      return true;
    }

    sendJSON(value) {
      return this.send(JSON.stringify(value));
    }

    _emit(type, detail) {
      this.dispatchEvent(new CustomEvent(type, { detail }));
    }

    _enter(state) {
      const previous = this.state;
      if (state !== previous) {
        this.state = state;
        this._emit('state', { state, previous });
      }
    }

    _finish() {
      this._watch.stop();
      this._queue = [];
      this._enter('closed');
    }

    _closed({ code, reason }, delay) {
      const revoked = this.state !== 'closed' && code > FIRST_FINAL_CODE;  // not by the page itself
      this._watch.stop();
      if (delay === null) {
        this._finish();
      } else {
        this._enter('waiting');
      }
      this._emit('close', { code, reason, delay });
      if (revoked) {
        this._emit('revoked', { code, reason });
      }
    }

    _transmit(frame) {
      this._link.send(JSON.stringify(frame));
    }

    _received(data) {
      let frame = null;
      try {
        frame = JSON.parse(data);
      } catch (error) {
        // Not for this version of the client, as any frame of an unknown type.
      }
      if (!frame || this.state === 'closed') {
        return;
      }
      this._heard();
      switch (frame.type) {
        case 'welcome': return this._welcome(frame);
        case 'message': return this._message(frame);
        case 'position': return this._skip(frame);
        case 'lost': return this._lost(frame);
        case 'ping': this._transmit({ type: 'pong' }); return this._settle();
        case 'pong': return this._settle();
      }
    }

    _track(label) {
      if (!this._tracks.has(label)) {
        this._tracks.set(label, new Track());
      }
      return this._tracks.get(label);
    }

    _welcome({ channels, heartbeat }) {
      // The server pings this often; a quarter more and it is late.
      this._quiet = 1250 * (heartbeat > 0 ? heartbeat : DEFAULT_HEARTBEAT);
      this._heard();
      this._link.established();
      // Without an epoch the server keeps no positions for the channel.
      const begun = Object.entries(channels || {}).map(([label, channel]) => (
        [label, channel, channel.epoch ? this._track(label).begin(channel) : null]
      ));
      // What waited longest goes first, so before anything that a listener sends.
      this._queue.splice(0).forEach((frame) => this._link.send(frame));
      this._enter('open');
      this._emit('open', { channels });
      begun.forEach(([label, { epoch, offset, recovered }, ended]) => {
        if (recovered === false) {
          this._emit('lost', { channel: label, epoch, offset });
        }
        this._ended(label, ended);
      });
    }

    _message(frame) {
      // A message of a foreign program has no position, so it cannot repeat nor advance anything.
      if (!frame.epoch) {
        this._emit('message', new Message(frame));
        return;
      }
      const track = this._track(frame.channel);
      const fresh = track.take(frame);
      const ended = track.count(1, fresh ? 1 : 0);
      if (fresh) {
        this._emit('message', new Message(frame));
      }
      this._ended(frame.channel, ended);
    }

    /** The channel has moved on by messages that are not for this client, such as its own. */
    _skip(frame) {
      const track = this._track(frame.channel);
      track.take(frame);
      this._ended(frame.channel, track.count(0, 0));
    }

    _lost(frame) {
      const { channel, epoch, offset } = frame;
      if (epoch) {
        this._track(channel).lose(frame);
      }
      this._emit('lost', { channel, epoch, offset });
    }

    _settle() {
      this._tracks.forEach((track, label) => this._ended(label, track.settle()));
    }

    _ended(channel, replay) {
      if (replay && replay.recovered) {
        this._emit('recovered', { channel, messages: replay.messages });
      }
    }

    _heard() {
      this._probing = false;
      if (this._quiet) {
        this._watch.start(this._quiet);
      }
    }

    _silence() {
      if (this._probing) {
        this._link.drop('No heartbeat');
      } else {
        this._probe();
      }
    }

    _probe() {
      this._probing = true;
      this._transmit({ type: 'ping' });
      this._watch.start(PROBE_TIMEOUT);
    }
  }

  /** The call of django-websocket-redis, on raw frames. */
  function WS4Redis(options, $) {
    if (!(this instanceof WS4Redis)) {
      return new WS4Redis(options, $);
    }
    const opts = Object.assign({}, options);
    const heartbeat = opts.heartbeat_msg;
    let missed = 0;

    function callback(name, ...args) {
      if (typeof opts[name] === 'function') {
        opts[name](...args);
      }
    }

    function beat() {
      missed += 1;
      if (missed > LEGACY_MISSED_LIMIT) {
        link.drop('Too many missed heartbeats.');
      } else {
        link.send(heartbeat);
        pulse.start(LEGACY_HEARTBEAT);
      }
    }

    const env = environment(opts.env);
    const pulse = new Timer(env, beat);
    const link = new Link(requireURI(opts.uri), [], env, {
      connecting: () => callback('connecting'),
      opened: () => {
        missed = 0;
        link.established();
        if (heartbeat) {
          pulse.start(LEGACY_HEARTBEAT);
        }
        callback('connected');
      },
      received: (data) => {
        // Whatever arrives shows that the link is alive.
        missed = 0;
        if (!heartbeat || data !== heartbeat) {
          callback('receive_message', data);
        }
      },
      closed: (event) => {
        pulse.stop();
        callback('disconnected', event);
      },
      probe: () => {
        if (heartbeat) {
          missed = LEGACY_MISSED_LIMIT - 1;
          beat();
        }
      },
    });

    // Own functions, not methods, as people pass them on without their object.
    this.send_message = (message) => link.send(message);
    this.close = () => {
      pulse.stop();
      link.close();
    };
    this.get_state = () => link.readyState;
    this.is_connecting = () => link.readyState === CONNECTING;
    this.is_connected = () => link.readyState === OPEN;
    this.is_closing = () => link.readyState === CLOSING;
    this.is_closed = () => link.readyState === CLOSED;

    link.open();
  }

  WS4Redis.Socket = Socket;
  WS4Redis.connect = (uri, options) => new Socket(uri, options);
  WS4Redis.sockets = Object.create(null);  // so that "constructor" is a name as any other

  function parsed(json) {
    try {
      return JSON.parse(json || '{}');
    } catch (error) {
      root.console.error(error);
      return {};
    }
  }

  /** Make the socket that the script element asks for in its data attributes. */
  function setUp(script, document, sockets) {
    const data = script.dataset;
    const name = data.ws4redisName || 'default';
    const positions = parsed(data.ws4redisPositions);
    const options = Object.assign({ positions }, parsed(data.ws4redisOptions));
    const socket = new api.Socket(data.ws4redisUri, Object.assign({}, options, { start: false }));
    let ready = false;

    function announce() {
      if (!ready && sockets[name] === socket) {
        ready = true;
        unhidden(document, 'dispatchEvent')(
          new CustomEvent('ws4redis:ready', { detail: { name, socket } }),
        );
        if (options.start !== false) {
          socket.open();
        }
      }
    }

    if (sockets[name]) {
      sockets[name].close();
    }
    sockets[name] = socket;
    if (document.readyState === 'complete') {
      announce();
    } else {
      // An asynchronous script may come too late for the first of them.
      unhidden(document, 'addEventListener')('DOMContentLoaded', announce);
      root.addEventListener('load', announce);
    }
  }

  /**
   * The script element that runs. An element of the page whose name is currentScript hides
   * document.currentScript, and markup of strangers that is allowed on a page may contain one.
   */
  function runningScript({ Document, document }) {
    return Document
      ? Object.getOwnPropertyDescriptor(Document.prototype, 'currentScript').get.call(document)
      : document && document.currentScript;
  }

  // A page may run this file more than once; all of it then shares the first one's sockets.
  // Elements whose id is WS4Redis have that name too, but are no functions.
  const loaded = root.WS4Redis;
  const api = typeof loaded === 'function' && loaded.Socket ? loaded : WS4Redis;
  root.WS4Redis = api;
  // An element whose id is module would be taken for one, and takes no exports.
  if (typeof module === 'object' && module.exports && !(root.Node && module instanceof root.Node)
      && !(root.HTMLCollection && module instanceof root.HTMLCollection)) {
    module.exports = api;
  }
  const script = runningScript(root);
  if (script && script.dataset.ws4redisUri) {
    setUp(script, root.document, api.sockets);
  }
})(typeof globalThis === 'object' ? globalThis : self);
