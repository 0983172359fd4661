// The same code as an ES module: ws4redis.js defines the global WS4Redis, this file hands it on.
import './ws4redis.js';

const { WS4Redis } = globalThis;

export default WS4Redis;
export const { Socket, connect, sockets } = WS4Redis;
