"""The client of a gateway for asyncio. What its methods promise stands at those of petnet.Client."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterable, Awaitable
from types import TracebackType
from typing import Any, Callable, TypeVar

import grpc
import grpc.aio

from petnet import _tls, _wire, errors, stream
from petnet import client as blocking
from petnet._wire import Tracked
from petnet.aio import _source
from petnet.aio._source import in_thread
from petnet.pb2 import health_pb2, health_pb2_grpc, mailbox_pb2, mailbox_pb2_grpc, simple_pb2, simple_pb2_grpc

Answer = TypeVar("Answer")
#: Seconds that a refusal of a stream may take before it goes on.
_REFUSAL = 0.1
#: What writing to a call raises that the gateway has ended; its answer says why.
_ENDED = (asyncio.InvalidStateError, grpc.RpcError)


class Client(blocking.ClientBase):
    """A client of one's own party's gateway, for the tasks of one event loop. Compression and files are worked on in
    threads, so that they do not hold the loop."""

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def channel(self) -> Any:
        """The gRPC channel of grpc.aio, for stubs of petnet.pb2 or others. The first use needs a running loop."""
        if self._channel is None:
            options = _tls.options(self._server_name)
            if self._credentials is None:
                self._channel = grpc.aio.insecure_channel(self.target_url, options=options)
            else:
                self._channel = grpc.aio.secure_channel(self.target_url, self._credentials, options=options)
        return self._channel

    async def close(self) -> None:
        """As petnet.Client.close."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def call(self, stub_class: Any, request: Any, method: str, max_retry: int = 3) -> Any:
        """As petnet.Client.call."""
        stub = stub_class(self.channel)
        if not hasattr(stub, method):
            raise ValueError(f"{method} is not a method of {stub_class.__name__}")
        return await self._ask(method, lambda: getattr(stub, method)(request), _wire.Retry(self.patience, max_retry))

    async def health_check(self) -> int:
        """As petnet.Client.health_check."""
        stub = health_pb2_grpc.HealthStub(self.channel)
        request = health_pb2.HealthCheckRequest()
        answer: Any = await self._ask("health check", lambda: stub.Check(request), _wire.Retry(3.0))
        return int(answer.status)

    async def send(
        self, receiver: str, message_id: str, payload: bytes, *, check: bool = False, key: bytes | None = None
    ) -> bool:
        """As petnet.Client.send."""
        what = _wire.sending(receiver, message_id)
        given = await in_thread(self._outgoing, payload)
        named = self._unanswered.key_of(receiver, message_id, given) if key is None else _wire.checked_key(key)
        request = _wire.send_request(receiver, message_id, given, named)
        stub = mailbox_pb2_grpc.MailboxStub(self.channel)
        old = simple_pb2_grpc.SimpleRequestServerStub(self.channel)

        async def attempt() -> bool:
            try:
                await stub.Send(request)
            except grpc.RpcError as error:
                if not errors.is_unknown_call(error):
                    raise
                _wire.payload_of(await old.ClientSimpleSend(_wire.old_send_request(request)), what)
            return True

        try:
            accepted = await self._ask(what, attempt, _wire.Retry(self.patience))
        except asyncio.CancelledError:
            self._unanswered.lost(request)
            raise
        except errors.PetnetError as failure:
            (self._unanswered.lost if failure.maybe_accepted else self._unanswered.known)(request)
            if isinstance(failure, errors.Refused):
                return self._refused(failure, check)
            raise
        self._unanswered.known(request)
        return accepted

    async def recv(self, message_id: str, timeout: float | None = None, *, sender: str | None = None) -> bytes:
        """As petnet.Client.recv."""
        what = _wire.receiving(message_id)
        if timeout is None:
            found = await self._look(message_id, sender, None, _wire.Retry(self.patience))
            return b"" if found is None else await in_thread(self._incoming, found, what)
        wait = _wire.Wait(what, timeout)
        while (found := await self._look(message_id, sender, wait.next_ms(), wait.retry())) is None:
            await asyncio.sleep(wait.pause_after_none())
        return await in_thread(self._incoming, found, what)

    async def send_stream(
        self,
        receiver: str,
        message_id: str,
        source: stream.Readable | AsyncIterable[bytes],
        length: int | None = None,
        *,
        progress: bool = False,
        key: bytes | None = None,
    ) -> int:
        """As petnet.Client.send_stream; the source may be an asynchronous iterable of bytes, too."""
        what = _wire.sending(receiver, message_id)
        given = _source.source(source, length)
        retry = _wire.Retry(self.patience, math.inf if given.repeatable else 1)
        stub = mailbox_pb2_grpc.MailboxStub(self.channel)
        about = {"message_id": message_id, "receiver_id": receiver, "key": _wire.checked_key(key)}
        try:
            with stream.bar(progress, message_id, given.length) as bar:

                async def attempt() -> int:
                    bar.reset()
                    return await self._give(stub.SendStream(), about, given, retry, bar)

                return await self._ask(what, attempt, retry)
        finally:
            given.close()

    async def recv_stream(
        self,
        message_id: str,
        target: stream.Writable,
        timeout: float = 60.0,
        *,
        sender: str | None = None,
        progress: bool = False,
    ) -> int:
        """As petnet.Client.recv_stream."""
        what = _wire.receiving(message_id)
        wait = _wire.Wait(what, timeout)
        sink = await in_thread(stream.Sink, target)
        try:
            with stream.bar(progress, message_id, None) as bar:
                while not await self._take(what, message_id, sender, wait, sink, bar):
                    await asyncio.sleep(wait.pause_after_none())
            await in_thread(sink.keep)
            return sink.written
        finally:
            sink.discard()

    async def release(self, message_id: str, *, sender: str | None = None) -> int:
        """As petnet.Client.release."""
        return await self._release(_wire.release_request(message_id, sender))

    async def release_topic(self, topic: str, *, sender: str | None = None) -> int:
        """As petnet.Client.release_topic."""
        return await self._release(_wire.release_topic_request(topic, sender))

    async def release_all(self, *, sender: str | None = None) -> int:
        """As petnet.Client.release_all."""
        return await self._release(_wire.release_all_request(sender))

    async def track(self, message_id: str, receiver: str | None = None, *, sender: str | None = None) -> Tracked:
        """As petnet.Client.track."""
        request = mailbox_pb2.TrackRequest(message_id=message_id, receiver_id=receiver or "", sender_id=sender or "")
        stub = mailbox_pb2_grpc.MailboxStub(self.channel)
        retry = _wire.Retry(self.patience)
        return _wire.tracked(await self._ask(f"tracking {message_id!r}", lambda: stub.Track(request), retry))

    async def _release(self, request: Any) -> int:
        stub = mailbox_pb2_grpc.MailboxStub(self.channel)
        answer: Any = await self._ask("releasing", lambda: stub.Release(request), _wire.Retry(self.patience))
        return int(answer.released)

    async def _look(self, message_id: str, sender: str | None, wait_ms: int | None, retry: _wire.Retry) -> bytes | None:
        what = _wire.receiving(message_id)
        request = simple_pb2.ClientSimpleRecvRequest(message_id=message_id)
        metadata = _wire.recv_metadata(sender, wait_ms)
        stub = simple_pb2_grpc.SimpleRequestServerStub(self.channel)
        answer = await self._ask(what, lambda: stub.ClientSimpleRecv(request, metadata=metadata), retry)
        return _wire.payload_of(answer, what)

    async def _give(self, call: Any, about: dict[str, Any], given: _source.Source, retry: _wire.Retry, bar: Any) -> int:
        """Gives all pieces to a call that has begun, and returns the sequence."""
        first: dict[str, Any] = {**about, "len": given.length}
        try:
            async for payload, last in given.pieces():
                try:
                    await call.write(mailbox_pb2.SendPiece(payload=payload, last=last, **first))
                except _ENDED:
                    break
                if not first:
                    retry.moved(self.patience)
                elif retry.failed or not given.repeatable:
                    # grpc.aio loses the reason of a refusal that comes while it writes. Most come after the first piece.
                    await asyncio.wait([asyncio.ensure_future(call.code())], timeout=_REFUSAL)
                first = {}
                bar.update(len(payload))
            with contextlib.suppress(*_ENDED):
                await call.done_writing()
        except BaseException:
            # An error of the source, or a cancelled task: what is half sent is not accepted.
            call.cancel()
            raise
        return int((await call).sequence)

    async def _take(
        self, what: str, message_id: str, sender: str | None, wait: _wire.Wait, sink: stream.Sink, bar: Any
    ) -> bool:
        stub = mailbox_pb2_grpc.MailboxStub(self.channel)
        retry = wait.retry()

        async def attempt() -> bool:
            request = mailbox_pb2.ReceiveRequest(message_id=message_id, sender_id=sender or "", wait_ms=wait.next_ms())
            length = None
            async for piece in stub.ReceiveStream(request):
                if length is None:
                    length = piece.len
                    bar.reset(total=length)
                await in_thread(sink.write, piece.payload)
                retry.moved(self.patience)
                bar.update(len(piece.payload))
            if length is not None and sink.written != length:
                raise errors.Damaged(f"{what}: the stream ended after {sink.written} of {length} bytes")
            return length is not None

        return await self._ask(what, attempt, retry, sink.restart)

    async def _ask(
        self,
        what: str,
        call: Callable[[], Awaitable[Answer]],
        retry: _wire.Retry,
        may_repeat: Callable[[], bool] = lambda: True,
    ) -> Answer:
        opened = self._channel
        while True:
            try:
                return await call()
            except asyncio.CancelledError:
                # grpc.aio cancels who waits when its channel is closed. They are to go on, unless they were cancelled, too.
                if self._channel is opened or _is_cancelled():
                    raise
                raise errors.Unavailable(
                    f"{what}, at {self.target_url}: the client was closed", maybe_accepted=True
                ) from None
            except grpc.RpcError as error:
                failure = errors.of_call(f"{what}, at {self.target_url}", error)
                if not may_repeat() or self._channel is not opened:
                    raise failure from error
                pause = retry.pause_after(failure)
            except errors.Refused as refused:
                refused.maybe_accepted |= retry.failed
                raise
            await asyncio.sleep(pause)


def _is_cancelled() -> bool:
    """Whether somebody cancelled the task that runs. Python tells from 3.11 on."""
    task: Any = asyncio.current_task()
    return task is not None and hasattr(task, "cancelling") and task.cancelling() > 0
