"""The ordered conversation with one peer for asyncio. What it promises stands at petnet.Channel."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import pathlib
from collections.abc import AsyncIterator
from types import TracebackType

from petnet._journal import Journal, default_path
from petnet._wire import State
from petnet.aio._source import in_thread_to_end
from petnet.aio.client import Client
from petnet.channel import NEVER
from petnet.client import log
from petnet.errors import PendingSend, PetnetError, Refused


class Channel:
    """As petnet.Channel. One task may send while another receives. ``async with`` opens it; so does its first use.

    Make it in a coroutine: before Python 3.10 its locks belong to the loop in which it was made.
    """

    def __init__(
        self,
        topic: str,
        peer: str,
        client: Client | None = None,
        *,
        state: str | os.PathLike[str] | None = None,
        release: bool = False,
        check_sender: bool = True,
    ) -> None:
        """As petnet.Channel, but what was on its way is sent when the channel is opened, by ``async with`` or ``open``."""
        self.topic = topic
        self.peer = peer
        self._client = Client.from_environment() if client is None else client
        self._owned = client is None
        self._release = release
        self._sender = peer if check_sender else None
        self._opening = asyncio.Lock()
        self._sending = asyncio.Lock()
        self._receiving = asyncio.Lock()
        self._journal = Journal(pathlib.Path(state) if state else default_path(topic, peer), topic, peer)
        self._opened = False

    async def __aenter__(self) -> Channel:
        try:
            await self.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def open(self) -> Channel:
        """Sends what was on its way when the channel's last program ended, once."""
        async with self._opening:
            if not self._opened:
                await self.flush()
                self._opened = True
        return self

    async def close(self) -> None:
        """As petnet.Channel.close."""
        self._journal.close()
        if self._owned:
            await self._client.close()

    @property
    def sent(self) -> int:
        """As petnet.Channel.sent, once the channel is open."""
        return self._journal.sent

    @property
    def received(self) -> int:
        """As petnet.Channel.received."""
        return self._journal.received

    async def send(self, payload: bytes) -> int:
        """As petnet.Channel.send. A task that is cancelled in it leaves a message whose fate is not known: ``flush``."""
        await self.open()
        async with self._sending:
            number = self._journal.sent
            if self._journal.pending is not None:
                raise PendingSend(f"it is not known yet whether {self._id(number)!r} was accepted: call flush first")
            # To its end: done behind the back of the next send, it would put other bytes under that one's number.
            await in_thread_to_end(self._journal.sending, bytes(memoryview(payload)))
            try:
                await self._client.send(self.peer, self._id(number), payload, check=True, key=self._journal.key)
            except Refused as refused:
                if not refused.maybe_accepted:
                    await in_thread_to_end(self._journal.withdrawn)
                raise
            self._journal.accepted()
            return number

    async def flush(self) -> None:
        """As petnet.Channel.flush."""
        async with self._sending:
            if self._journal.pending is not None:
                message_id = self._id(self._journal.sent)
                try:
                    await self._client.send(self.peer, message_id, self._journal.pending, check=True, key=self._journal.key)
                except NEVER:
                    if (await self._client.track(message_id, self.peer)).state is State.UNKNOWN:
                        await in_thread_to_end(self._journal.withdrawn)
                        raise
                self._journal.accepted()

    async def recv(self, timeout: float | None = None) -> bytes:
        """As petnet.Channel.recv. A task that is cancelled while it waits has received nothing."""
        await self.open()
        async with self._receiving:
            payload = await self._next(timeout)
            await self._count()
            return payload

    @contextlib.asynccontextmanager
    async def receiving(self, timeout: float | None = None) -> AsyncIterator[bytes]:
        """As petnet.Channel.receiving, for ``async with``."""
        await self.open()
        async with self._receiving:
            yield await self._next(timeout)
            await self._count()

    async def rewind(self, received: int) -> None:
        """As petnet.Channel.rewind."""
        async with self._receiving:
            if not 0 <= received <= self._journal.received:
                raise ValueError(f"can only go back to one of the {self._journal.received} received, not to {received}")
            await in_thread_to_end(self._journal.count_received, received)

    async def _next(self, timeout: float | None) -> bytes:
        wanted = self._id(self._journal.received)
        return await self._client.recv(wanted, math.inf if timeout is None else timeout, sender=self._sender)

    async def _count(self) -> None:
        number = self._journal.received
        # Not interrupted: a cancelled task must not lose a message that is counted behind its back.
        self._journal.count_received(number + 1)
        if self._release:
            try:
                await self._client.release(self._id(number), sender=self._sender)
            except PetnetError as failure:
                log.warning("%s; the gateway keeps the message for its MESSAGE_TTL", failure)

    def _id(self, number: int) -> str:
        return f"{self.topic}:{number}"
