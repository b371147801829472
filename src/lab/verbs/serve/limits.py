"""The limits of a server: connections, memory for request bodies, and time."""

import asyncio
import math
import resource
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

GRACE = 10  # seconds after SIGTERM in which open requests are finished
PATIENCE = 0.5  # seconds for which `DrainBody` reads
SMALL = 65536  # bytes of each body that `ByteBudget` does not count
MIN_RATE = 100_000  # bytes per second at which the oldest body must arrive while others wait
WATCH = 2  # seconds over which the rate is measured
QUEUE = 1024  # connections that the kernel queues until the server accepts them


class Deadline:
    """The time limits of all requests. `stop` shortens them."""

    def __init__(self) -> None:
        self.end = math.inf
        self.running: set[asyncio.Timeout] = set()

    @asynccontextmanager
    async def limit(self, seconds: float) -> AsyncIterator[Callable[[float], None]]:
        """Limit the time of a context. Yield a function that sets the remaining seconds.

        Raises:
            TimeoutError: the time limit is over.
            HTTPException: the server stops, and the time after `stop` is over.
        """
        now = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout_at(min(now() + seconds, self.end)) as timeout:

                def set_remaining(remaining: float) -> None:
                    if not timeout.expired():
                        timeout.reschedule(min(now() + remaining, self.end))

                self.running.add(timeout)
                try:
                    yield set_remaining
                finally:
                    self.running.discard(timeout)
        except TimeoutError as error:
            if now() >= self.end:
                raise HTTPException(503, "The server is stopping; try again later.") from error
            raise

    def stop(self, seconds: float) -> None:
        """End every time limit within so many seconds."""
        self.end = asyncio.get_running_loop().time() + seconds
        for timeout in self.running:
            if not timeout.expired():
                timeout.reschedule(min(timeout.when() or math.inf, self.end))


@dataclass(eq=False)
class Body:
    """The body of one request, as counted by a `ByteBudget`."""

    close: Callable[[], None] | None = None  # aborts the reception; None: the body is not being received
    held: int = 0  # bytes of the budget that the body uses
    wanted: int = 0  # bytes of the budget that the body waits for
    granted: asyncio.Event = field(default_factory=asyncio.Event)


class ByteBudget:
    """Limits the total size of all request bodies in memory. A body that would exceed the limit waits.

    The first `SMALL` bytes of each body are not counted, so small requests never wait. The oldest body never waits
    either, so that one body can always finish. If it arrives more slowly than `MIN_RATE` while others wait, its
    connection is closed.
    """

    def __init__(self, num_bytes: int) -> None:
        self.free = num_bytes
        self.bodies: dict[Body, None] = {}  # larger than `SMALL`, the oldest first

    @asynccontextmanager
    async def body(self) -> AsyncIterator[Body]:
        """Yield a new body; its bytes are returned to the budget at the end."""
        body = Body()
        try:
            yield body
        finally:
            self.bodies.pop(body, None)
            self.free += body.held
            self._grant()

    async def grow(self, body: Body, num_bytes: int) -> None:
        """Wait until the body may grow to `num_bytes` in total."""
        body.wanted = max(0, num_bytes - SMALL - body.held)
        if body.wanted:
            self.bodies.setdefault(body)
            body.granted.clear()
            self._grant()
            await body.granted.wait()

    def _grant(self) -> None:
        """Let waiting bodies grow, in the order of their arrival."""
        for i, body in enumerate(self.bodies):
            if body.wanted > self.free and i:
                return
            self.free -= body.wanted
            body.held += body.wanted
            body.wanted = 0
            body.granted.set()

    async def watch(self) -> None:
        """Close the oldest body if it is slow and others wait. Run until cancelled."""
        last, held = None, 0
        while True:
            oldest = next(iter(self.bodies), None)
            is_needed = any(body.wanted for body in self.bodies)
            if is_needed and oldest and oldest is last and oldest.close and oldest.held - held < MIN_RATE * WATCH:
                oldest.close()
            last, held = oldest, oldest.held if oldest else 0
            await asyncio.sleep(WATCH)


class DrainBody:
    """Middleware that reads the rest of a request's body, for up to `PATIENCE` seconds, before an early response.

    Most clients do not read a response before they have sent the whole body.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        more = scope["type"] == "http"

        async def receiving() -> Message:
            nonlocal more
            message = await receive()
            more = message.get("more_body", False)  # absent after a disconnect
            return message

        async def sending(message: Message) -> None:
            if more and message["type"] == "http.response.start":
                with suppress(TimeoutError):
                    async with asyncio.timeout(PATIENCE):
                        while more:
                            await receiving()
            await send(message)

        await self.app(scope, receiving, sending)


def limited_protocol(most: int, seconds: float, is_over: Callable[[], bool]) -> type[H11Protocol]:
    """An HTTP protocol class with limits on connections.

    Args:
        most: the maximal number of connections. The connection that has been idle longest is closed for a new one.
        seconds: the time limit for the head of a request.
        is_over: whether the server is stopping; new connections are then closed.
    """
    waiting: dict[H11Protocol, asyncio.TimerHandle] = {}  # the idle connections, the longest idle first

    class Connection(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._sort()
            if is_over():  # uvicorn only closes the connections that existed when it stopped
                transport.abort()
            elif len(self.connections) > most and waiting:
                oldest = next(iter(waiting))
                waiting.pop(oldest).cancel()
                oldest.transport.abort()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._sort()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._sort()

        def connection_lost(self, exc: Exception | None) -> None:
            self._sort(is_over=True)
            super().connection_lost(exc)

        def shutdown(self) -> None:
            if self._is_idle():
                self.transport.close()
            else:
                super().shutdown()

        def _is_idle(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _sort(self, is_over: bool = False) -> None:
            if not is_over and self._is_idle() and not self.transport.is_closing():
                if self not in waiting:
                    waiting[self] = self.loop.call_later(seconds, self.transport.abort)
            elif timer := waiting.pop(self, None):
                timer.cancel()

    return Connection


class Server(uvicorn.Server):
    """A uvicorn server that finishes open requests before it stops.

    Args:
        app: the application.
        seconds: the time limit for the head of a request.
        stop: called when the server stops, with the seconds in which open requests must be finished.
    """

    def __init__(self, app: ASGIApp, seconds: float, stop: Callable[[float], Any]) -> None:
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = min(QUEUE, files // 2) if files != resource.RLIM_INFINITY else QUEUE
        super().__init__(
            uvicorn.Config(
                app,
                http=limited_protocol(most, seconds, lambda: self.should_exit),
                ws="none",
                log_level="error",
                access_log=False,
                timeout_graceful_shutdown=GRACE + 2,
                backlog=max(1, most // 16),  # asyncio accepts up to `backlog` connections before it serves any
            )
        )
        self.stop = stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(QUEUE)  # asyncio has reduced the kernel's queue to `backlog`

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.stop(GRACE)
        await super().shutdown(sockets)
