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
 *   const orders = socket.subscribe('orders/7', 'subscribe-broadcast');
 *
 * gives another socket, with all that the first one has, for which no other WebSocket is opened:
 * both share a link, which is there as long as any of its sockets wants it.
 *
 *   uri         absolute or relative address, or a function that returns one for each attempt;
 *               a relative one becomes ws: or wss:, as the page is http: or https:
 *   positions   {label: {epoch, offset}} from where to go on, e.g. stamped into the page
 *   getState    an async function that fetches the state, shows it, and returns its stamp: positions,
 *               or the Response that has them in a header. It runs when the page cannot go on from
 *               where it was, so at first without positions, and after a loss. Messages wait
 *               meanwhile; those that are not in the state follow
 *   offline     'refuse' (default): send() returns false while the socket is not open
 *               'queue': send() keeps the message until the socket is open again
 *   queueLimit  how many messages are kept at most (default 100); beyond it send() returns false
 *   start       false: wait for open()
 *   facility, flags  what `uri` names
 *   env         replacements for WebSocket, setTimeout, clearTimeout, random and window (for tests)
 *
 *   socket.state             'connecting', 'open', 'waiting' (for the next attempt) or 'closed'
 *   socket.positions         a copy of the newest positions; another socket can go on from them
 *   socket.subscribe(facility, flags, options)   flags are a text or an array
 *   socket.advance(positions)   the page shows the state of these: what comes up to there is skipped
 *   socket.send(data)        publishes a string, ArrayBuffer or view; returns true if it was sent or
 *                            queued, false if it was refused
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
 *   purged      {channel, epoch, offset}: everything up to this position was deleted
 *   synced      {positions}: getState has succeeded; what has waited follows
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
 *           data-ws4redis-facility="chat" data-ws4redis-flags="subscribe-broadcast"
 *           data-ws4redis-name="chat" data-ws4redis-positions="{...}"
 *           data-ws4redis-options="{...}"></script>
 *
 * Only the uri is required. The name is 'default' if left out; positions and options are JSON. The
 * socket is at WS4Redis.sockets.chat from then on. It connects after the document has been parsed
 * and its deferred scripts and modules have run, so that they miss nothing; just before that, the
 * document gets the event 'ws4redis:ready' with the detail {name, socket}. Sockets whose elements
 * name their facility share a link.
 *
 * A socket is closed when its element leaves the document, as when Turbo, htmx or a router replaces
 * the page. If a later page has the same element, the same socket goes on from where that page stands,
 * or from where it was if the element has no positions.
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

  const { document } = root;
  const PROTOCOL = 'ws4redis.v1';
  const TAGS = 'script[data-ws4redis-uri]';
  const CONNECTING = 0, OPEN = 1, CLOSING = 2, CLOSED = 3;

  // Codes with which a socket ends.
  const NORMAL = 1000;
  const NO_STATUS = 1005;
  const NO_CODE = 1006;             // refused, no server, or a cut: browsers tell no more
  const REFUSED = 1008;
  const RESTART = 1012;
  const TRY_AGAIN_LATER = 1013;
  const FIRST_FINAL_CODE = 4500;    // a client that has broken the protocol; all above: revoked

  const MAX_BATCH = 60000;          // characters; a server takes 65,536
  const MAX_FRAMES = 200;           // in a batch; a server takes 256
  const MAX_HELD = 1000;            // events that wait for the state

  // Milliseconds.
  const MIN_DELAY = 500;            // before another attempt
  const MAX_DELAY = 30000;
  const CONNECT_TIMEOUT = 20000;    // from the attempt to the first answer; Firefox has the same
  const STABLE_AFTER = 5000;        // a link shorter than this does not reset the backoff
  const MAX_RETRY_AFTER = 300000;   // that a server may ask for
  const PROBE_TIMEOUT = 5000;       // for an answer to a ping
  const LEAVING = 5000;             // from the wish to leave a page until it is gone, or stays
  const TURNING = 500;              // from a change of the page until its new scripts have run
  const SPREAD = 2000;              // in which all pages fetch the state after a common loss
  const LEGACY_HEARTBEAT = 5000;
  const LEGACY_MISSED_LIMIT = 3;

  function environment(replacements) {
    return {
      WebSocket: root.WebSocket,
      setTimeout: (action, delay) => root.setTimeout(action, delay),
      clearTimeout: (handle) => root.clearTimeout(handle),
      random: Math.random,
      window: root,
      ...replacements,
    };
  }

  function resolved(uri) {
    return typeof uri === 'function' ? resolved(uri()) : uri;
  }

  /** Dispatch an event past elements of the page, whose names hide methods of the document. */
  function dispatch(target, type, detail) {
    EventTarget.prototype.dispatchEvent.call(target, new CustomEvent(type, { detail }));
  }

  function parsed(json) {
    try {
      return JSON.parse(json || '{}');
    } catch (error) {
      root.console.error(error);
      return {};
    }
  }

  /** The positions in what getState returns: they themselves, or a response with a header. */
  function stampOf(answer) {
    if (answer?.ok === false) {
      throw answer;
    }
    const header = answer?.headers?.get('WS4Redis-Positions');
    return header ? parsed(header) : answer || {};
  }

  /** Whether a position is known to be another one, or after it. */
  function reached(position, { epoch, offset }) {
    return position?.epoch === epoch && position?.offset >= offset;
  }

  /** One action that can be put off, and put off again. */
  function createTimer(env, action) {
    let handle = null;

    function stop() {
      env.clearTimeout(handle);
      handle = null;
    }

    function start(delay) {
      stop();
      handle = env.setTimeout(() => {
        handle = null;
        action();
      }, delay);
    }

    return { start, stop, running: () => handle !== null };
  }

  /** When to try again what has ended or failed, and what the console says of it. */
  function createRetry(env, action) {
    const timer = createTimer(env, action);
    const stable = createTimer(env, reset);
    let attempts = 0;
    let explained = 0;              // the code of the last end that the console tells of

    function reset() {
      attempts = 0;
      explained = 0;
    }

    function stop() {
      timer.stop();
      stable.stop();
    }

    /** Full jitter: the window doubles with each attempt, the delay is anywhere in it. */
    function backoff() {
      attempts += 1;
      const ceiling = Math.min(MAX_DELAY, 1000 * 2 ** attempts);
      return MIN_DELAY + env.random() * (ceiling - MIN_DELAY);
    }

    /** A server with too much to do says for how long to stay away; not all come back at once. */
    function askedFor({ code, reason }) {
      const [, seconds = 0] = (
        code === TRY_AGAIN_LATER && /^retry-after=(\d{1,9})$/.exec(reason)
      ) || [];
      return Math.min(MAX_RETRY_AFTER, 1000 * seconds) * (1 + env.random());
    }

    /**
     * Wait after an end, and return for how long: null if it is final.
     *
     * The console tells it once for each code, but for an address of null, and not what happens to
     * everybody.
     */
    function after(end, address) {
      const { code, reason } = end;
      const isFinal = code === REFUSED || code >= FIRST_FINAL_CODE;
      const delay = isFinal ? null : Math.max(backoff(), askedFor(end));
      stop();
      if (!isFinal) {
        timer.start(delay);
      }
      if (address && code !== explained && code > NO_STATUS && code !== RESTART) {
        explained = code;
        root.console.warn('WS4Redis:', address, code, reason);
      }
      return delay;
    }

    return {
      ...timer, stop, reset, backoff, after,
      /** To be called when the other side has answered as it should. */
      established: () => stable.start(STABLE_AFTER),
    };
  }

  /**
   * A WebSocket that comes back, whatever is spoken on it.
   *
   * Its hooks are connecting(), opened(), received(data), closed(event, delay) and probe(); the
   * last asks to find out soon whether the link is still alive.
   */
  function createLink(uri, protocols, env, hooks) {
    const retry = createRetry(env, connect);
    const deadline = createTimer(env, () => drop('No answer'));
    const leaving = createTimer(env, () => unsaid && ended(unsaid));
    let ws = null;
    let url = null;                 // of the present WebSocket, or of the last one
    let wanted = false;
    let hasOpened = false;
    let unsaid = null;              // an end that is not told while the page may be leaving

    if (uri === undefined || uri === null) {
      throw new Error('No Websocket URI in options');
    }

    function readyState() {
      return ws?.readyState ?? CLOSED;
    }

    /** Come back without waiting for the other side to close the present link: it may be gone. */
    function drop(reason, delay) {
      ended({ code: NO_CODE, reason }, delay);
    }

    function connect() {
      release();
      try {
        hooks.connecting();
      } finally {
        if (wanted) {
          attempt();
        }
      }
    }

    function attempt() {
      try {
        const { href } = new URL(resolved(uri), root.location);
        ws = new env.WebSocket(href.replace(/^http/, 'ws'), ...protocols);
        url = ws.url;
        hasOpened = false;
        ws.onopen = () => {
          hasOpened = true;
          hooks.opened();
        };
        ws.onmessage = (event) => hooks.received(event.data);
        ws.onclose = (event) => ended(event);
        deadline.start(CONNECT_TIMEOUT);
      } catch (error) {
        root.console.error(error);
        drop(`${error}`);
      }
    }

    function ended(event, delay) {
      release();
      if (leaving.running()) {
        unsaid = event;
        return;
      }
      if (!wanted) {
        delay = null;               // the page itself has closed it
      } else if (delay === undefined) {
        // A cut happens to everybody, and drop() has a reason.
        const isCut = event.code === NO_CODE && (hasOpened || event.reason);
        delay = retry.after(event, isCut ? null : url);
      } else {
        retry.start(delay);
      }
      if (delay === null) {
        stop();
      }
      hooks.closed(event, delay);
    }

    /** Forget the WebSocket; no event of it is heard from now on. */
    function release() {
      const former = ws;
      retry.stop();
      deadline.stop();
      unsaid = null;
      if (former) {
        ws = former.onopen = former.onmessage = former.onclose = null;
        former.close();
      }
    }

    function stop() {
      wanted = false;
      listen('removeEventListener');
      retry.stop();
      deadline.stop();
      leaving.stop();
    }

    function listen(method) {
      ['online', 'pageshow', 'pagehide', 'beforeunload', 'visibilitychange'].forEach((type) => {
        env.window[method]?.(type, notice);
      });
    }

    function notice({ type }) {
      if (type === 'beforeunload') {
        // Firefox ends a page's links before the page; but perhaps the page stays.
        leaving.start(LEAVING);
      } else if (type === 'pagehide') {
        // Browsers keep a page for the way back only if it has no open link.
        release();
      } else if (type === 'visibilitychange' && document.hidden) {
        // Nobody looks.
      } else if (!ws) {
        connect();
      } else if (readyState() === OPEN) {
        hooks.probe();
      }
    }

    return {
      /** Open it, and return whether that was to be done. */
      open() {
        if (wanted) {
          return false;
        }
        wanted = true;
        listen('addEventListener');
        connect();
        return true;
      },

      /** Stop for good; the browser's close event still goes to the closed hook. */
      close(code, reason) {
        stop();
        ws?.close(code, reason);
      },

      send(data) {
        ws?.send(data);
      },

      /** To be called when the other side has answered as it should. */
      established() {
        deadline.stop();
        retry.established();
      },

      drop,
      readyState,
      waiting: retry.running,
    };
  }

  /**
   * Where the client stands in the history of one channel.
   *
   * `known` is the position that the server is told on reconnecting. `epoch` and `seen` tell what
   * has been delivered, so that nothing is delivered twice. `replay` is there while stored or
   * missed messages arrive. Its end brings the client to `top`, even where the newest messages
   * were not stored.
   */
  function createTrack() {
    let known = null;
    let epoch = null;
    let seen = -1;
    let replay = null;

    /** Count what arrived, and what of it was new; returns the replay at its end. */
    function count(arrived, fresh) {
      const current = replay;
      if (current) {
        current.left -= arrived;
        current.messages += fresh;
        if (current.left <= 0 || seen >= current.top) {
          known = { epoch, offset: Math.max(seen, current.top) };
          replay = null;
          return current;
        }
      }
      return null;
    }

    /**
     * Whether a message is new; it then is the newest one. The first message of a channel has
     * another epoch than the empty history before it, and follows on that without a loss.
     */
    function take(position) {
      if (position.epoch !== epoch) {
        replay = null;
      } else if (position.offset <= seen) {
        return false;
      }
      epoch = position.epoch;
      seen = position.offset;
      if (!reached(known, position)) {
        known = { epoch, offset: seen };
      }
      return true;
    }

    return {
      take,
      count,
      known: () => known,
      /** Whether a page that stands there misses nothing of what was told before. */
      isAt: (stamp) => !replay && reached(stamp, known),

      /** The server told what follows. */
      begin({ epoch: present, offset: top, recovered, replay: size }) {
        // Offsets go back if the store was restored to an older state; they will be used again.
        if (present !== epoch || (!recovered && top < seen)) {
          epoch = present;
          seen = -1;
        }
        // What was recovered has no gaps: its last message tells the end better than their number.
        const left = recovered && size > 0 ? Infinity : size;
        replay = { top, recovered, left, messages: 0 };
        if (!known && size > 0) {
          // If the link breaks before the replay has arrived, this makes the server send it again.
          known = { epoch, offset: Math.max(0, top - size) };
        }
        return count(0, 0);
      },

      /**
       * The page shows the state of this position, so what comes up to there is not new. Of two epochs
       * nobody knows which came first, unless nothing has been delivered yet.
       */
      advance(stamp) {
        if (stamp.epoch === epoch || seen <= 0) {
          take(stamp);
        }
      },

      /** What is missing up to here is gone for good; the next message has the next offset. */
      lose(position) {
        known = epoch = null;
        take(position);
      },
    };
  }

  /** The detail of a `message` event. */
  function messageIn({ channel, data, base64, epoch, offset }) {
    if (base64 !== undefined) {
      data = Uint8Array.from(root.atob(base64), (character) => character.charCodeAt(0));
    }
    return Object.defineProperty({ channel, data, epoch, offset }, 'json', {
      get: () => JSON.parse(data),
    });
  }

  /**
   * What sockets share: a link, and who is who on it.
   *
   * A subscription is what it knows of a socket: {id, socket, uri, wish, retry, connection,
   * enter(state), closed(event, delay), received(frame)}. The link has
   * the address of one of them, whose id is undefined then; null is the id of those that the server
   * does not know. Which one it is may change from link to link.
   */
  function createConnection(first, env) {
    const link = createLink(first.uri && address, [PROTOCOL], env, {
      connecting() {
        down();
        ready().forEach(({ enter }) => enter('connecting'));
      },
      /** Tell the server of all at once. */
      opened() {
        const frames = [{ type: 'hello', positions: host.socket.positions }];
        greeted = true;
        if (subscriptions.includes(host)) {
          host.id = undefined;
        } else {
          frames.push({ type: 'unsubscribe' });
        }
        ready().forEach((one) => one !== host && frames.push(subscribe(one)));
        transmitAll(frames);
      },

      received: (data) => greeted && received(data),
      closed(event, delay) {
        // A final code is for those that were heard, and for the one whose address it was.
        const meant = ready().filter((one) => (
          delay !== null || one === host || one.socket.state === 'open'
        ));
        if (!greeted) {
          subscriptions.push(...subscriptions.splice(0, 1));  // another address may do
        }
        down();
        meant.forEach((one) => {
          one.retry.stop();
          one.closed(event, delay);
        });
        if (delay === null) {
          ready().forEach(bring);
        }
      },

      probe: () => quiet && probe(),
    });
    const watch = createTimer(env, () => (probing ? link.drop('No answer') : probe()));
    let host = first;               // the one whose address it is
    let subscriptions = [];         // that are not closed
    let lastId = 0;
    let greeted = false;
    let quiet = 0;                  // until a silent server is late; 0: there was no welcome yet
    let probing = false;
    let takesMany = false;          // whether the server has said that a link may have several sockets

    /** Those that do not wait for a time of their own. */
    function ready() {
      return subscriptions.filter(({ retry }) => !retry.running());
    }

    function without(one) {
      return subscriptions.filter((other) => other !== one);
    }

    function address() {
      host = ready().find(({ uri }) => uri) || first;
      return host.uri;
    }

    /** Nothing that was said on the link holds any more. */
    function down() {
      greeted = false;
      quiet = 0;
      watch.stop();
      subscriptions.forEach((one) => { one.id = null; });
    }

    function transmit(frame) {
      link.send(JSON.stringify(frame));
    }

    /** Send frames in as few batches as a server takes. */
    function transmitAll(frames) {
      const { length } = frames;
      if (length === 1) {
        transmit(frames[0]);
      } else if (length > MAX_FRAMES || JSON.stringify(frames).length > MAX_BATCH) {
        transmitAll(frames.slice(0, length / 2));
        transmitAll(frames.slice(length / 2));
      } else {
        transmit(frames);
      }
    }

    /** The frame that subscribes, by an id that nobody has had. */
    function subscribe(one) {
      lastId += 1;
      one.id = lastId;
      return { type: 'subscribe', id: lastId, ...one.wish, positions: one.socket.positions };
    }

    /** Have somebody subscribed, now or with the link. */
    function bring(one) {
      if (link.open()) {
        return;
      }
      if (quiet && !takesMany && one.uri) {
        // It gets a link of its own.
        subscriptions = without(one);
        one.connection = createConnection(one, env);
        one.connection.add(one);
      } else {
        if (greeted && one.wish.facility) {
          transmit(subscribe(one));
        } else if (greeted) {
          link.drop('Reconnecting', 0);  // only its address says what it is
        }
        one.enter(link.waiting() ? 'waiting' : 'connecting');
      }
    }

    function received(data) {
      const frame = parsed(data) || {};
      const { type, id, heartbeat } = frame;
      if (type === 'welcome') {
        // The server pings this often; a quarter more and it is late.
        quiet = 1250 * heartbeat;
        link.established();
        takesMany = frame.subscriptions !== 0;
        if (!takesMany) {
          subscriptions.filter((one) => one.id).forEach(bring);
        }
      }
      probing = false;
      if (quiet) {
        watch.start(quiet);
      }
      if (type === 'ping') {
        transmit({ type: 'pong' });
      }
      subscriptions.find((one) => one.id === id)?.received(frame);
    }

    function probe() {
      probing = true;
      transmit({ type: 'ping' });
      watch.start(PROBE_TIMEOUT);
    }

    return {
      env,
      link,
      bring,
      transmit,

      add(one) {
        one.id = null;
        subscriptions.push(one);
        bring(one);
      },

      /** Have it be over. Without a code it is going to be added again: the link stays. */
      remove(one, code, reason) {
        const { id } = one;
        one.id = null;
        subscriptions = without(one);
        if (subscriptions.length === 0 && (code || !takesMany)) {
          down();
          link.close(code, reason);
        } else if (id !== null) {
          transmit({ type: 'unsubscribe', id });
        }
      },
    };
  }

  class Socket extends EventTarget {
    constructor(uri, options = {}, shared) {
      super();
      const {
        positions, offline, queueLimit = 100, start, env, facility, flags = '', getState,
      } = options;
      const socket = this;
      const tracks = new Map();     // by label
      const subscription = {
        id: null,
        uri,
        wish: { facility, flags: String(flags).match(/[^\s,]+/g) || [] },
        socket,
        enter,
        closed,

        received(frame) {
          const { type, channel, epoch, offset } = frame;
          const position = { channel, epoch, offset };
          if (type === 'welcome' || type === 'subscribed') {
            welcome(frame.channels);
          } else if (type === 'refused' || type === 'ended') {
            subscription.id = null;
            closed(frame, retry.after(frame, uri || facility));
          } else if (type === 'lost') {
            if (epoch) {
              track(channel).lose(frame);
            }
            renew(SPREAD * parts.random());
            emit(type, position);
          } else if (type === 'message' || type === 'position' || type === 'purged') {
            const arrived = +(type === 'message');
            // Without a position, as from a foreign program, a message cannot repeat nor advance.
            const fresh = epoch ? track(channel).take(frame) : arrived;
            const replay = epoch && track(channel).count(arrived, fresh && arrived);
            if (fresh && type !== 'position') {
              deliver(type, arrived ? messageIn(frame) : position);
            }
            recovered(channel, replay);
          }
        },
      };
      const { env: parts } = subscription.connection = (
        shared || createConnection(subscription, environment(env))
      );
      const retry = subscription.retry = createRetry(parts, () => (
        subscription.connection.bring(subscription)
      ));
      const loader = createRetry(parts, load);
      let queue = [];
      let loading = false;
      let outdated = false;         // by what has happened since the state was asked for
      let held = null;              // events that wait for the state, as [type, detail]

      function emit(type, detail) {
        dispatch(socket, type, detail);
      }

      function enter(state) {
        const previous = socket.state;
        if (state !== previous) {
          socket.state = state;
          emit('state', { state, previous });
        }
      }

      /** It has ended, and comes again after a delay, or never if that is null. */
      function closed({ code, reason }, delay, isByPage) {
        if (delay === null) {
          retry.stop();
          loader.stop();
          held &&= [];        // next time the state has to be fetched anew
          queue = [];
          subscription.connection.remove(subscription, code, reason);
        }
        enter(delay === null ? 'closed' : 'waiting');
        emit('close', { code, reason, delay });
        if (code > FIRST_FINAL_CODE && !isByPage) {
          emit('revoked', { code, reason });
        }
      }

      function publish(frame) {
        subscription.connection.transmit({ type: 'publish', id: subscription.id, ...frame });
      }

      function track(label) {
        const known = tracks.get(label) || createTrack();
        tracks.set(label, known);
        return known;
      }

      function welcome(channels) {
        retry.established();
        // Without an epoch the server keeps no positions for the channel.
        const begun = Object.entries(channels).map(([label, channel]) => (
          [label, channel, channel.epoch && track(label).begin(channel)]
        ));
        if (held || begun.some(([, channel]) => !channel.recovered)) {
          renew(0);
        }
        // What waited longest goes first, so before anything that a listener sends.
        queue.splice(0).forEach(publish);
        enter('open');
        emit('open', { channels });
        begun.forEach(([channel, { epoch, offset, recovered: isWhole }, replay]) => {
          if (isWhole === false) {
            emit('lost', { channel, epoch, offset });
          }
          recovered(channel, replay);
        });
      }

      function recovered(channel, replay) {
        if (replay?.recovered) {
          deliver('recovered', { channel, messages: replay.messages });
        }
      }

      /** Emit what has to wait for the state if that is on its way. */
      function deliver(type, detail) {
        if (!held) {
          emit(type, detail);
        } else if (held.push([type, detail]) > MAX_HELD) {
          held = [];
          outdated = true;          // a state that is asked for from now on has all of them
        }
      }

      /** What the page shows is not the state, or may not be. */
      function renew(delay) {
        if (getState) {
          held ||= [];
          outdated = true;
          if (!loading) {
            loader.start(delay);
          }
        }
      }

      /** Have the page show the state; never twice at once, as the older answer may come last. */
      async function load() {
        let stamp = null;
        outdated = false;
        loading = true;
        try {
          stamp = stampOf(await getState());
        } catch (error) {
          root.console.error(error);
        }
        loading = false;
        if (socket.state === 'closed') {
          return;
        }
        if (!stamp || outdated) {
          loader.start(stamp ? 0 : loader.backoff());
          return;
        }
        const waiting = held;
        held = null;
        loader.reset();
        socket.advance(stamp);
        emit('synced', { positions: stamp });
        waiting.forEach(([type, detail]) => (
          reached(stamp[detail.channel], detail) || emit(type, detail)
        ));
      }

      // Own functions, not methods, as people pass them on without their object.
      Object.assign(socket, {
        state: 'closed',

        open() {
          if (socket.state === 'closed') {
            subscription.connection.add(subscription);
          }
        },

        close(code = NORMAL, reason = '') {
          if (socket.state !== 'closed') {
            closed({ code, reason }, null, true);
          }
        },

        reconnect(delay = 0) {
          subscription.connection.link.drop('Reconnecting', delay);
          socket.open();
        },

        subscribe: (name, names, others) => new Socket(
          others?.uri, { ...others, facility: name, flags: names }, subscription.connection,
        ),

        advance(stamp = {}) {
          Object.entries(stamp).forEach(([label, position]) => (
            position && track(label).advance(position)
          ));
        },

        /**
         * The page shows the state of a stamp: if more was heard before, that comes again. So does the
         * word of a loss, which another page has been told, and what answers an older stamp.
         */
        _show(stamp) {
          const goesOn = socket.state === 'open'
            && [...tracks].every(([label, one]) => one.isAt(stamp[label]));
          if (!goesOn) {
            tracks.clear();
          }
          socket.advance(stamp);
          if (!goesOn && subscription.id !== null) {
            subscription.connection.remove(subscription);
            subscription.connection.add(subscription);
          }
        },

        send(data) {
          const frame = {};
          if (data.byteLength === undefined) {
            frame.data = String(data);
          } else {
            const bytes = new Uint8Array(data.buffer || data, data.byteOffset, data.byteLength);
            frame.base64 = root.btoa(bytes.reduce((text, one) => text + String.fromCharCode(one), ''));
          }
          if (socket.state === 'open' && subscription.connection.link.readyState() === OPEN) {
            publish(frame);
            return true;
          }
          return offline === 'queue' && socket.state !== 'closed' && queue.length < queueLimit
            && queue.push(frame) > 0;
        },

        sendJSON: (value) => socket.send(JSON.stringify(value)),
      });
      Object.defineProperty(socket, 'positions', {
        get: () => Object.fromEntries(
          [...tracks].map(([label, one]) => [label, { ...one.known() }]),
        ),
      });

      socket.advance(positions);
      if (start !== false) {
        socket.open();
      }
    }
  }

  /** The call of django-websocket-redis, on raw frames. */
  function WS4Redis(options) {
    if (!(this instanceof WS4Redis)) {
      return new WS4Redis(options);
    }
    const own = { ...options };
    const heartbeat = own.heartbeat_msg;
    const env = environment(own.env);
    const pulse = createTimer(env, beat);
    let missed = 0;

    function callback(name, ...args) {
      if (typeof own[name] === 'function') {
        own[name](...args);
      }
    }

    function beat() {
      missed += 1;
      if (missed > LEGACY_MISSED_LIMIT) {
        link.drop('No answer');
      } else {
        link.send(heartbeat);
        pulse.start(LEGACY_HEARTBEAT);
      }
    }

    const link = createLink(own.uri, [], env, {
      connecting: () => callback('connecting'),
      opened() {
        missed = 0;
        link.established();
        if (heartbeat) {
          pulse.start(LEGACY_HEARTBEAT);
        }
        callback('connected');
      },
      received(data) {
        // Whatever arrives shows that the link is alive.
        missed = 0;
        if (!heartbeat || data !== heartbeat) {
          callback('receive_message', data);
        }
      },
      closed(event) {
        pulse.stop();
        callback('disconnected', event);
      },
      probe() {
        if (heartbeat) {
          missed = LEGACY_MISSED_LIMIT - 1;
          beat();
        }
      },
    });
    const isIn = (state) => () => link.readyState() === state;

    // Own functions, not methods, as people pass them on without their object.
    this.send_message = link.send;
    this.close = () => {
      pulse.stop();
      link.close();
    };
    this.get_state = link.readyState;
    this.is_connecting = isIn(CONNECTING);
    this.is_connected = isIn(OPEN);
    this.is_closing = isIn(CLOSING);
    this.is_closed = isIn(CLOSED);

    link.open();
  }

  const sockets = { __proto__: null };  // so that "constructor" is a name as any other
  const tagged = new Map();         // the sockets of script elements, by address
  const hosts = new Map();          // one of them for each beginning of an address
  const turning = createTimer(environment(), leave);

  function urisIn(node) {
    return [...node.querySelectorAll(TAGS)].map((element) => element.dataset.ws4redisUri);
  }

  /** Close the sockets that the page does not name any more. */
  function leave() {
    const named = urisIn(document);
    tagged.forEach((socket, uri) => named.includes(uri) || socket.close());
  }

  /** Turbo never takes a script out of the head: do that for those that the new page has not. */
  function tidyHead({ detail: { newBody } }) {
    // Of a page from Turbo's cache there is nothing but the body.
    const named = urisIn(newBody.parentNode || document);
    document.head.querySelectorAll(TAGS).forEach((element) => (
      named.includes(element.dataset.ws4redisUri) || element.remove()
    ));
  }

  /** Note in a page that is kept, to be shown again, where it stands by then. */
  function note() {
    document.querySelectorAll(TAGS).forEach(({ dataset: data }) => {
      const socket = tagged.get(data.ws4redisUri);
      if (socket) {
        data.ws4redisPositions &&= JSON.stringify(socket.positions);
      }
    });
  }

  Object.assign(WS4Redis, {
    Socket,
    sockets,
    connect: (uri, options) => new Socket(uri, options),

    /** Have the socket that the script element asks for in its data attributes. */
    _setUp({ dataset: data }) {
      const { ws4redisUri: uri, ws4redisName: name = 'default', ws4redisFacility: facility } = data;
      const options = { uri, facility, flags: data.ws4redisFlags, ...parsed(data.ws4redisOptions) };
      let socket = tagged.get(uri);

      function begin() {
        dispatch(document, 'ws4redis:ready', { name, socket });
        if (options.start !== false) {
          socket.open();
        }
      }

      if (!socket) {
        const path = decodeURIComponent(uri.split('?')[0]);
        const beginning = facility ? path.slice(0, -facility.length) : uri;
        const host = hosts.get(beginning);
        const rest = { ...options, start: false };
        socket = host?.subscribe(facility, options.flags, rest) || new Socket(uri, rest);
        tagged.set(uri, socket);
        hosts.set(beginning, host || socket);
      }
      sockets[name] = socket;
      if (data.ws4redisPositions) {
        socket._show(parsed(data.ws4redisPositions));
      }
      // An asynchronous script may come too late for the first of them.
      const moment = { loading: 'DOMContentLoaded', interactive: 'load' }[document.readyState];
      if (moment) {
        root.addEventListener(moment, begin);
      } else {
        begin();
      }
    },
  });

  /**
   * The script element that runs. An element of the page whose name is currentScript hides
   * document.currentScript, and markup of strangers that is allowed on a page may contain one.
   */
  function runningScript({ Document, document }) {
    return Document
      ? Object.getOwnPropertyDescriptor(Document.prototype, 'currentScript').get.call(document)
      : document?.currentScript;
  }

  // A page may run this file more than once; all of it then shares the first one's sockets.
  // Elements whose id is WS4Redis have that name too, but are no functions.
  const loaded = root.WS4Redis;
  const api = typeof loaded?.Socket === 'function' ? loaded : WS4Redis;
  root.WS4Redis = api;
  // An element whose id is module would be taken for one; unlike one, it belongs to the window.
  if (typeof module === 'object' && module !== root.module) {
    module.exports = api;
  }
  if (api === WS4Redis && root.MutationObserver) {
    new root.MutationObserver(() => turning.running() || turning.start(TURNING))
      .observe(document, { childList: true, subtree: true });
    root.addEventListener('turbo:before-render', tidyHead);
    root.addEventListener('turbo:before-cache', note);
  }
  const script = runningScript(root);
  if (script?.dataset.ws4redisUri) {
    api._setUp(script);
  }
})(globalThis);
