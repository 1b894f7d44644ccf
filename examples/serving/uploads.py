"""What a request may cost, and the bytes that it brings."""

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from batching import BusyError
from fastapi import Request
from pictures import KINDS, RefusedError
from starlette.requests import ClientDisconnect

Result = TypeVar("Result")


@dataclass(frozen=True)
class Limits:
    """What a request may cost.

    Attributes:
        most_requests: that are worked on at once, from the first byte of an upload to the answer.
        most_bytes: of an upload.
        most_pixels: of a picture.
        head_seconds: in which a connection must have brought the head of a request.
        upload_seconds: in which an upload must be there.
        answer_seconds: in which it must be answered then.
        decoders: pictures that are decoded at once, three bytes a pixel each.
    """

    most_requests: int = 100
    most_bytes: int = 10_000_000
    most_pixels: int = 25_000_000
    head_seconds: float = 10.0
    upload_seconds: float = 10.0
    answer_seconds: float = 10.0
    decoders: int = 2


class Places:
    """Requests that are worked on.

    Args:
        most: at once.
    """

    def __init__(self, most: int):
        self._free = most

    @contextmanager
    def one(self) -> Iterator[None]:
        """Take a place for a while.

        Raises:
            BusyError: if there is none.
        """
        if not self._free:
            raise BusyError("Too many requests at once: try again later.")
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


async def read_body(request: Request, limits: Limits) -> bytes:
    """The upload, of which no more is kept than it may have.

    Raises:
        RefusedError: if it is of another kind, too large, or ends before its end.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in KINDS:
        raise RefusedError(415, f"The content type must be one of {', '.join(KINDS)}, got {kind or 'none'!r}.")
    too_large = RefusedError(413, f"The upload has more than {limits.most_bytes:,} bytes.")
    told = request.headers.get("content-length", "0")
    if told.isdecimal() and int(told) > limits.most_bytes:
        raise too_large
    content = bytearray()
    try:
        async for chunk in request.stream():
            content += chunk
            if len(content) > limits.most_bytes:
                raise too_large
    except ClientDisconnect:
        raise RefusedError(400, "The upload ended before its end.") from None
    return bytes(content)


async def within(seconds: float, status: int, reason: str, work: Awaitable[Result]) -> Result:
    """Await something for so long.

    Raises:
        RefusedError: if it takes longer.
    """
    try:
        return await asyncio.wait_for(work, seconds)
    except asyncio.TimeoutError:
        raise RefusedError(status, reason) from None
