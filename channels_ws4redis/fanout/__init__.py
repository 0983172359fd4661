"""From a publisher to Redis or the channel layer, and from there to the sockets of a process."""
