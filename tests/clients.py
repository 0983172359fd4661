"""What the end-to-end tests use as browsers."""

from __future__ import annotations

import asyncio
import http.cookiejar
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Self

import websockets
from websockets.asyncio.client import ClientConnection, connect

from tests.servers import AsgiServer

#: Seconds to wait for what must come, and a message that tells that nothing else did.
PATIENCE = 30
END = "-- end --"


class Answer(NamedTuple):
    """An HTTP response."""

    status: int
    body: bytes


class Socket:
    """A WebSocket whose messages can be counted on to be complete."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def receive(self) -> str | bytes:
        """Return the next message."""
        async with asyncio.timeout(PATIENCE):
            return await self.connection.recv()

    async def receive_many(self, count: int) -> list[str | bytes]:
        """Return that many messages."""
        return [await self.receive() for _ in range(count)]

    async def receive_json(self) -> dict[str, Any]:
        """Return the next message of the package's own protocol."""
        return json.loads(await self.receive())

    async def send(self, message: str | bytes) -> None:
        """Send a frame."""
        await self.connection.send(message)

    async def send_json(self, body: Any) -> None:
        """Send a frame of the package's own protocol."""
        await self.send(json.dumps(body))

    async def close_code(self) -> int | None:
        """Wait until the server closes the socket and return its code."""
        async with asyncio.timeout(PATIENCE):
            try:
                while True:
                    await self.connection.recv()
            except websockets.ConnectionClosed:
                return self.connection.close_code


class Visitor:
    """Somebody with a browser: keeps cookies, posts, and opens sockets."""

    def __init__(self, site: AsgiServer) -> None:
        self.site = site
        self.cookies = http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(self.cookies)
        )

    def request(self, path: str, body: Any = None, **headers: str) -> Answer:
        """Make an HTTP request: a POST if there is a body, which goes out as JSON."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.site.url(path), data, headers)
        try:
            with self._opener.open(request, timeout=PATIENCE) as response:
                return Answer(response.status, response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.read())

    async def arequest(self, path: str, body: Any = None, **headers: str) -> Answer:
        """Make an HTTP request without blocking the event loop."""
        return await asyncio.to_thread(self.request, path, body, **headers)

    def login(self, username: str, password: str = "secret") -> Self:
        """Log in."""
        answer = self.request("/test/login", {"username": username, "password": password})
        assert answer.status == 200, answer.body[:500]
        return self

    @property
    def cookie(self) -> str:
        """The cookies as a header."""
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in self.cookies)

    @property
    def session_key(self) -> str:
        """The key of the session."""
        return next(cookie.value or "" for cookie in self.cookies if cookie.name == "sessionid")

    @asynccontextmanager
    async def socket(
        self,
        path: str,
        *,
        subprotocols: Sequence[str] | None = None,
        max_queue: int | None = None,
        **headers: str,
    ) -> AsyncIterator[Socket]:
        """Open a socket with the visitor's cookies.

        :param max_queue: frames that are read before anybody asks for them.
        """
        if self.cookie:
            headers.setdefault("Cookie", self.cookie)
        async with connect(
            self.site.socket_url(path),
            additional_headers=headers,
            subprotocols=subprotocols,  # type: ignore[arg-type] # a NewType of str
            open_timeout=PATIENCE,
            close_timeout=1,
            max_size=None,
            max_queue=max_queue,
            proxy=None,
        ) as connection:
            yield Socket(connection)

    async def publish(
        self, *messages: str, expire: int | None = None, view: str = "publish", **to: Any
    ) -> list[str]:
        """Let the server publish, and return the names of the channels."""
        body = {"to": to, "messages": messages, "expire": expire}
        answer = await self.arequest(f"/test/{view}", body)
        assert answer.status == 200, answer.body[:500]
        publishers: list[str] = json.loads(answer.body)["publishers"]
        return publishers

    async def refused(self, path: str, **headers: str) -> int:
        """Try to open a socket that the server refuses, and return the HTTP status."""
        try:
            async with self.socket(path, **headers):
                pass
        except websockets.InvalidStatus as error:
            return error.response.status_code
        raise AssertionError(f"{path} was not refused")
