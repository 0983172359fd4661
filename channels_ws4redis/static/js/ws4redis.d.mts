// Types of ws4redis.mjs.

import WS4Redis from './ws4redis.js';

export default WS4Redis;

export declare const Socket: typeof WS4Redis.Socket;
export declare const connect: typeof WS4Redis.connect;
export declare const sockets: typeof WS4Redis.sockets;

export type Socket = WS4Redis.Socket;
export type State = WS4Redis.State;
export type Label = WS4Redis.Label;
export type Position = WS4Redis.Position;
export type Positions = WS4Redis.Positions;
export type Channel = WS4Redis.Channel;
export type Stamp = WS4Redis.Stamp;
export type Options = WS4Redis.Options;
export type Message = WS4Redis.Message;
export type SocketEventMap = WS4Redis.SocketEventMap;
