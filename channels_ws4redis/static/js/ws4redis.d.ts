// Types of the global WS4Redis and of require('./ws4redis.js'), which also tells the behaviour.

export = WS4Redis;
export as namespace WS4Redis;

declare const WS4Redis: WS4Redis.Static;

declare namespace WS4Redis {
  type State = 'connecting' | 'open' | 'waiting' | 'closed';
  type Label = 'broadcast' | 'user' | 'session' | `group:${string}`;
  type URI = string | (() => string);
  type Payload = string | ArrayBuffer | ArrayBufferView | Blob;

  interface Position {
    epoch: string;
    offset: number;
  }

  type Positions = { [label: string]: Position };

  /** What the server said about a channel when the link was opened. */
  interface Channel extends Position {
    /** null: no position was given; false: it could not be honoured. */
    recovered: boolean | null;
    /** How many messages follow, if the server tells. */
    replay?: number;
  }

  /** Replacements for what is otherwise taken from the page; for tests. */
  interface Environment {
    WebSocket?: new (uri: string, protocols?: string) => unknown;
    setTimeout?: (action: () => void, delay: number) => unknown;
    clearTimeout?: (handle: any) => void;
    random?: () => number;
    window?: Pick<EventTarget, 'addEventListener' | 'removeEventListener'>;
  }

  /** What `getState` may return: positions, or a response with the header WS4Redis-Positions. */
  type Stamp = Positions | Response;

  interface Options {
    positions?: Positions;
    /** Fetches the state, shows it, and returns its stamp. */
    getState?: () => Promise<Stamp | void>;
    offline?: 'refuse' | 'queue';
    queueLimit?: number;
    start?: boolean;
    /** The facility that the address names. */
    facility?: string;
    /** The flags that the address names. */
    flags?: string | readonly string[];
    env?: Environment;
  }

  interface Message {
    readonly channel: Label;
    /** A Uint8Array where the payload is no text. */
    readonly data: string | Uint8Array;
    /** Absent on messages that are not kept, and on those of programs that know no positions. */
    readonly epoch?: string;
    readonly offset?: number;
    /** The parsed data; throws SyntaxError if it is no JSON. */
    readonly json: any;
  }

  interface SocketEventMap {
    state: CustomEvent<{ state: State; previous: State }>;
    open: CustomEvent<{ channels: { [label: string]: Channel } }>;
    message: CustomEvent<Message>;
    recovered: CustomEvent<{ channel: Label; messages: number }>;
    lost: CustomEvent<{ channel: Label; epoch: string; offset: number }>;
    /** Everything up to this position was deleted. */
    purged: CustomEvent<{ channel: Label; epoch: string; offset: number }>;
    /** The page shows the state of these positions. */
    synced: CustomEvent<{ positions: Stamp }>;
    close: CustomEvent<{ code: number; reason: string; delay: number | null }>;
    /** The server has cut the socket off, which stays away until it is told to come back. */
    revoked: CustomEvent<{ code: number; reason: string }>;
  }

  interface Socket extends EventTarget {
    readonly state: State;
    readonly positions: Positions;
    /** True if sent or queued, false if refused. */
    send(data: string | ArrayBuffer | ArrayBufferView): boolean;
    sendJSON(value: unknown): boolean;
    /** Another socket on the same link. */
    subscribe(
      facility: string,
      flags: string | readonly string[],
      options?: Omit<Options, 'facility' | 'flags' | 'env'>,
    ): Socket;
    /** The page shows the state of these positions already: what comes up to there is skipped. */
    advance(positions: Positions): void;
    open(): void;
    close(code?: number, reason?: string): void;
    reconnect(delay?: number): void;

    addEventListener<K extends keyof SocketEventMap>(
      type: K,
      listener: (this: Socket, event: SocketEventMap[K]) => void,
      options?: boolean | AddEventListenerOptions,
    ): void;
    addEventListener(
      type: string,
      listener: EventListenerOrEventListenerObject | null,
      options?: boolean | AddEventListenerOptions,
    ): void;
    removeEventListener<K extends keyof SocketEventMap>(
      type: K,
      listener: (this: Socket, event: SocketEventMap[K]) => void,
      options?: boolean | EventListenerOptions,
    ): void;
    removeEventListener(
      type: string,
      listener: EventListenerOrEventListenerObject | null,
      options?: boolean | EventListenerOptions,
    ): void;
  }

  interface LegacyOptions {
    uri: URI;
    receive_message?: (data: any) => void;
    heartbeat_msg?: string | null;
    connecting?: () => void;
    connected?: () => void;
    disconnected?: (event: CloseEvent) => void;
    [ignored: string]: unknown;
  }

  interface LegacySocket {
    send_message(data: Payload): void;
    close(): void;
    get_state(): number;
    is_connecting(): boolean;
    is_connected(): boolean;
    is_closing(): boolean;
    is_closed(): boolean;
  }

  interface Static {
    new (options: LegacyOptions, $?: unknown): LegacySocket;
    (options: LegacyOptions, $?: unknown): LegacySocket;
    readonly Socket: {
      new (uri: URI, options?: Options): Socket;
      readonly prototype: Socket;
    };
    readonly connect: (uri: URI, options?: Options) => Socket;
    /** The sockets made by script elements with data attributes, by name. */
    readonly sockets: { [name: string]: Socket };
  }

  interface ReadyEvent extends CustomEvent<{ name: string; socket: Socket }> {}
}

declare global {
  interface DocumentEventMap {
    'ws4redis:ready': WS4Redis.ReadyEvent;
  }
}
