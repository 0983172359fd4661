// A page, a clock and a WebSocket for the tests: nothing happens unless a test says so.

import { createRequire } from 'node:module';

globalThis.document = { hidden: false };

export const script = new URL('../../channels_ws4redis/static/js/ws4redis.js', import.meta.url);
export const WS4Redis = createRequire(import.meta.url)(script.pathname);

const EVENTS = [
  'state', 'open', 'message', 'recovered', 'lost', 'purged', 'synced', 'close', 'revoked',
];

class Clock {
  now = 0;
  timers = new Map();
  #handles = 0;

  setTimeout = (action, delay) => {
    this.#handles += 1;
    this.timers.set(this.#handles, { action, at: this.now + delay });
    return this.#handles;
  };

  clearTimeout = (handle) => {
    this.timers.delete(handle);
  };

  /** The delays of all timers that are running, shortest first. */
  get delays() {
    return [...this.timers.values()].map(({ at }) => at - this.now).sort((a, b) => a - b);
  }

  advance(duration) {
    const end = this.now + duration;
    for (;;) {
      const due = [...this.timers].sort(([, a], [, b]) => a.at - b.at)[0];
      if (!due || due[1].at > end) {
        break;
      }
      const [handle, { action, at }] = due;
      this.timers.delete(handle);
      this.now = at;
      action();
    }
    this.now = end;
  }
}

function webSocketClass(sockets) {
  return class WebSocket {
    constructor(...args) {
      [this.url, this.protocol] = args;
      this.args = args;
      this.readyState = 0;
      this.sent = [];
      sockets.push(this);
    }

    // What a page may do.

    send(data) {
      if (this.readyState === 0) {
        throw new Error('InvalidStateError');
      }
      if (this.readyState === 1) {
        this.sent.push(data);
      }
    }

    close(code, reason) {
      if (this.readyState < 2) {
        this.readyState = 2;
        this.closedWith = { code, reason };
      }
    }

    // What a server may do.

    accept() {
      this.readyState = 1;
      this.onopen?.({ type: 'open' });
    }

    receive(frame) {
      const data = typeof frame === 'string' ? frame : JSON.stringify(frame);
      if (this.readyState === 1) {
        this.onmessage?.({ type: 'message', data });
      }
    }

    finish(code = 1006, reason = '') {
      this.readyState = 3;
      this.onclose?.({ type: 'close', code, reason, wasClean: code !== 1006 });
    }

    welcome(channels = {}, heartbeat = 4) {
      this.accept();
      this.receive({ type: 'welcome', heartbeat, channels });
    }

    /** What has been sent, each batch as an array. */
    get batches() {
      return this.sent.map((data) => (typeof data === 'string' ? JSON.parse(data) : data));
    }

    get frames() {
      return this.batches.flat();
    }
  };
}

export class World {
  clock = new Clock();
  sockets = [];
  window = new EventTarget();
  chance = 0.5;
  log = [];

  constructor() {
    document.hidden = false;
    this.WebSocket = webSocketClass(this.sockets);
    this.env = {
      WebSocket: this.WebSocket,
      setTimeout: this.clock.setTimeout,
      clearTimeout: this.clock.clearTimeout,
      random: () => this.chance,
      window: this.window,
    };
  }

  /** The newest WebSocket. */
  get ws() {
    return this.sockets.at(-1);
  }

  connect(options = {}, uri = 'wss://example.com/ws/foo?subscribe-broadcast') {
    const socket = WS4Redis.connect(uri, { env: this.env, ...options });
    this.listen(socket, (type, detail) => this.log.push([type, detail]));
    return socket;
  }

  /** Have a function called with the type and the detail of each event. */
  listen(socket, hear) {
    for (const type of EVENTS) {
      socket.addEventListener(type, ({ detail }) => hear(type, detail));
    }
  }

  legacy(options = {}) {
    return new WS4Redis({ uri: 'ws://example.com/ws/foo', env: this.env, ...options });
  }

  details(type) {
    return this.log.filter(([name]) => name === type).map(([, detail]) => detail);
  }

  show(hidden = false) {
    document.hidden = hidden;
    this.window.dispatchEvent(new Event('visibilitychange'));
  }
}

/** Run an action without what it is meant to say in the console; returns what that is. */
export function quietly(action) {
  const { error, warn } = console;
  const messages = [];
  console.error = console.warn = (...parts) => (
    messages.push(parts.length > 1 ? parts.join(' ') : parts[0])
  );
  try {
    action();
  } finally {
    Object.assign(console, { error, warn });
  }
  return messages;
}
