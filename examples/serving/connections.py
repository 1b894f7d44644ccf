"""Connections on which no request comes, or its head never ends, are closed: they cost a client nothing."""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class PunctualProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn has it, with a limit for a request's head. Between two requests uvicorn has its own.

    Attributes:
        head_seconds: in which a head must be there.
    """

    head_seconds = 10.0
    _end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop_watching()
        elif self._end is None:
            self._end = self.loop.call_later(self.head_seconds, self.transport.close)

    def _stop_watching(self) -> None:
        if self._end is not None:
            self._end.cancel()
            self._end = None


def of_connections(head_seconds: float, idle_seconds: int = 5) -> dict:
    """Settings of uvicorn's.

    Args:
        head_seconds: in which the head of a request must be there.
        idle_seconds: how long a connection may wait for its next request.
    """
    protocol = type("Protocol", (PunctualProtocol,), {"head_seconds": head_seconds})
    return {"http": protocol, "timeout_keep_alive": idle_seconds}
