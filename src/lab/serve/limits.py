"""What one server holds at a time, and for how long: connections, bodies, seconds."""

import asyncio
import math
import resource
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import uvicorn
from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

GRACE = 10  # seconds that requests may still take after SIGTERM
PATIENCE = 0.5  # seconds for which a body is still read before an error: a client that is sending does not hear it
QUEUE = 1024  # connections that the kernel holds until they are accepted


class Clock:
    """Limits of time, which all end soon once the server is to stop."""

    def __init__(self) -> None:
        self.end = math.inf
        self.running: set[asyncio.Timeout] = set()

    @asynccontextmanager
    async def limit(self, seconds: float) -> AsyncIterator[Callable[[], None]]:
        """Yields what begins the seconds anew.

        Raises:
            TimeoutError: they are over.
            HTTPException: the server has stopped.
        """
        now = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout_at(min(now() + seconds, self.end)) as timeout:
                self.running.add(timeout)
                try:
                    yield lambda: timeout.reschedule(min(now() + seconds, self.end))
                finally:
                    self.running.discard(timeout)
        except TimeoutError as error:
            if now() >= self.end:
                raise HTTPException(503, "The server stops; ask again later.") from error
            raise

    def stop(self, seconds: float) -> None:
        self.end = asyncio.get_running_loop().time() + seconds
        for timeout in self.running:
            if not timeout.expired():
                timeout.reschedule(min(timeout.when() or math.inf, self.end))


class Room:
    """For bytes; who finds too little of it waits."""

    def __init__(self, num_bytes: int) -> None:
        self.free = num_bytes
        self.changed = asyncio.Condition()

    @asynccontextmanager
    async def taken(self, num_bytes: int) -> AsyncIterator[None]:
        async with self.changed:
            await self.changed.wait_for(lambda: self.free >= num_bytes)
            self.free -= num_bytes
        try:
            yield
        finally:
            self.free += num_bytes
            async with self.changed:
                self.changed.notify_all()


class Drained:
    """An application whose errors wait until a client that is still sending has sent its body, or for `PATIENCE`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        more = scope["type"] == "http"

        async def receiving() -> Message:
            nonlocal more
            message = await receive()
            more = message.get("more_body", False)  # of a disconnect: no
            return message

        async def sending(message: Message) -> None:
            if more and message["type"] == "http.response.start":
                with suppress(TimeoutError):
                    async with asyncio.timeout(PATIENCE):
                        while more:
                            await receiving()
            await send(message)

        await self.app(scope, receiving, sending)


def limited(most: int, seconds: float, is_over: Callable[[], bool]) -> type[H11Protocol]:
    """HTTP for `most` connections, each of which has so many seconds for the head of a request.

    Of too many, the one that has been without a request for longest is closed; once it is over, every new one.
    """
    waiting: dict[H11Protocol, asyncio.TimerHandle] = {}  # in the order in which they began to

    class Connection(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._sort()
            if is_over():  # it was accepted before, and nobody else would close it
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
    """It stops in time, with the requests answered that it has received.

    Args:
        app: what answers.
        seconds: for the head of a request.
        stop: is told in how many seconds every request is to be answered.
    """

    def __init__(self, app: ASGIApp, seconds: float, stop: Callable[[float], Any]) -> None:
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = min(QUEUE, files // 2) if files != resource.RLIM_INFINITY else QUEUE
        super().__init__(
            uvicorn.Config(
                app,
                http=limited(most, seconds, lambda: self.should_exit),
                ws="none",
                log_level="error",
                access_log=False,
                timeout_graceful_shutdown=GRACE + 2,
                backlog=max(
                    1, most // 16
                ),  # how many asyncio accepts before it looks at any, or tries when none can be
            )
        )
        self.stop = stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for door in sockets or []:
            door.listen(QUEUE)  # asyncio has made it as short as `backlog`

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.stop(GRACE)
        await super().shutdown(sockets)
