"""Where the payload of a stream comes from, without holding the event loop."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, Callable, Protocol, TypeVar, cast

from petnet import stream

Result = TypeVar("Result")
Piece = tuple[bytes, bool]


async def in_thread(function: Callable[..., Result], *arguments: Any) -> Result:
    """What takes long or waits for the disk, outside the event loop."""
    return await asyncio.get_running_loop().run_in_executor(None, functools.partial(function, *arguments))


async def in_thread_to_end(function: Callable[..., Result], *arguments: Any) -> Result:
    """As in_thread, but a task that is cancelled meanwhile ends when the thread is done, and not before."""
    work = asyncio.ensure_future(in_thread(function, *arguments))
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        # Also an error of the thread gives way to it.
        work.exception()
        raise cancelled
    return work.result()


class Source(Protocol):
    """As stream.Source."""

    length: int | None
    repeatable: bool

    def pieces(self) -> AsyncIterator[Piece]: ...

    def close(self) -> None: ...


def source(given: stream.Readable | AsyncIterable[bytes], length: int | None) -> Source:
    if hasattr(given, "__aiter__"):
        return _Asynchronous(cast("AsyncIterable[bytes]", given), length)
    return _Blocking(given, length)


class _Blocking:
    """A file or an iterable, read in threads."""

    def __init__(self, given: stream.Readable, length: int | None) -> None:
        self._source = stream.Source(given, length)
        self.length = self._source.length
        self.repeatable = self._source.repeatable
        self.close = self._source.close

    async def pieces(self) -> AsyncIterator[Piece]:
        pieces = self._source.pieces()
        while (piece := await in_thread(next, pieces, None)) is not None:
            yield piece


class _Asynchronous:
    """An asynchronous iterable: once, from beginning to end."""

    repeatable = False

    def __init__(self, given: AsyncIterable[bytes], length: int | None) -> None:
        self._given = given
        self.length = length

    async def pieces(self) -> AsyncIterator[Piece]:
        held = bytearray()
        async for chunk in self._given:
            held += chunk
            # More than a piece: what is held at the end is then the last one, and is not empty without need.
            while len(held) > stream.PIECE:
                yield bytes(held[: stream.PIECE]), False
                del held[: stream.PIECE]
        yield bytes(held), True

    def close(self) -> None:
        pass
