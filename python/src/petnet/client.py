"""The blocking client of a gateway.

It has the methods of PETNet's own Python client, so that a program changes only its import, and more: receiving that
waits, streams, release, track. The asyncio twin is petnet.aio.Client.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Callable, TypeVar

import grpc

from petnet import _tls, _wire, errors, stream
from petnet._tls import Pem
from petnet._wire import Tracked
from petnet.pb2 import health_pb2, health_pb2_grpc, mailbox_pb2, mailbox_pb2_grpc, simple_pb2, simple_pb2_grpc

Answer = TypeVar("Answer")
Self = TypeVar("Self", bound="ClientBase")
log = logging.getLogger("petnet")
#: Seconds for which a gateway that does not answer is tried again.
PATIENCE = 60.0


class ClientBase:
    """What a client is made of, blocking or not."""

    def __init__(
        self,
        target_party: str,
        target_url: str = "localhost:1235",
        ca_certificates: Pem | None = None,
        client_key: Pem | None = None,
        client_certificates: Pem | None = None,
        *,
        compress: bool = True,
        patience: float = PATIENCE,
        server_name: str | None = None,
    ) -> None:
        """Makes a client of the gateway at target_url; it connects with the first call, and again after every break.

        target_party: the party whose gateway that is, which is our own. Only kept, as in PETNet.
        target_url: host:port.
        ca_certificates, client_key, client_certificates: PEM (bytes or text) or paths of PEM files. All three: TLS in
            which both sides prove who they are. None: plaintext. Some: ValueError.
        compress: payloads of send and recv are raw snappy on the way, as PETNet's client has them. Both sides must
            agree: False for a peer whose programs do not compress (PETAce's C++ client).
        patience: seconds for which a call is tried again while the gateway does not answer; then it raises Unavailable.
        server_name: the name in the gateway's certificate, where it is not the host of target_url.
        """
        self.target_party = target_party
        self.target_url = target_url
        self.patience = patience
        self._compress = compress
        self._server_name = server_name
        self._credentials = _tls.credentials(ca_certificates, client_key, client_certificates)
        self._channel: Any = None  # of grpc or of grpc.aio
        self._unanswered = _wire.Unanswered()
        self._opening = threading.Lock()

    @classmethod
    def from_folder(
        cls: type[Self],
        target_party: str,
        certs: str | os.PathLike[str],
        target_url: str = "localhost:1235",
        **others: Any,
    ) -> Self:
        """A client with the ca.crt, client.key and client.crt of a folder, as `petnet certs init` makes it."""
        return cls(target_party, target_url, *_tls.in_folder(certs), **others)

    @classmethod
    def from_environment(cls: type[Self], target_party: str = "", **others: Any) -> Self:
        """A client of the gateway at PETNET_ADDR (localhost:1235), with TLS by the folder PETNET_CERTS if that is set."""
        url = os.environ.get("PETNET_ADDR") or "localhost:1235"
        certs = os.environ.get("PETNET_CERTS")
        if certs:
            return cls.from_folder(target_party, certs, url, **others)
        return cls(target_party, url, **others)

    def _outgoing(self, payload: bytes) -> bytes:
        return _wire.compress(payload) if self._compress else bytes(memoryview(payload))

    def _incoming(self, payload: bytes, what: str) -> bytes:
        return _wire.decompress(payload, what) if self._compress else payload

    def _refused(self, failure: errors.Refused, check: bool) -> bool:
        """send was refused: False for a caller who looks at it, an error for one who asked for that."""
        if check:
            raise failure
        log.error("%s, at %s", failure, self.target_url)
        return False


class Client(ClientBase):
    """A client of one's own party's gateway. May be used by many threads at a time.

    Every method raises, besides what is named there: Unavailable when the gateway did not answer for ``patience``
    seconds; AccessDenied, InvalidRequest and other kinds of Refused when it said no; Damaged when its disk failed.
    Message ids have 1 to 1024 bytes. All times are in seconds, all sizes in bytes.
    """

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def channel(self) -> Any:
        """The gRPC channel (grpc.Channel), for stubs of petnet.pb2 or others."""
        with self._opening:
            if self._channel is None:
                options = _tls.options(self._server_name)
                if self._credentials is None:
                    self._channel = grpc.insecure_channel(self.target_url, options=options)
                else:
                    self._channel = grpc.secure_channel(self.target_url, self._credentials, options=options)
            return self._channel

    def close(self) -> None:
        """Ends the connection, and calls on it. A later call opens another one, as in PETNet's client."""
        with self._opening:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def call(self, stub_class: Any, request: Any, method: str, max_retry: int = 3) -> Any:
        """Calls a method of any stub, as PETNet's client does, but raises Unavailable or Refused when it failed.

        max_retry: attempts while the gateway does not answer.
        """
        stub = stub_class(self.channel)
        if not hasattr(stub, method):
            raise ValueError(f"{method} is not a method of {stub_class.__name__}")
        return self._ask(method, lambda: getattr(stub, method)(request), _wire.Retry(self.patience, max_retry))

    def health_check(self) -> int:
        """1 when the gateway serves, 2 when it starts, stops or has failed (HealthCheckResponse.ServingStatus).

        Raises Unavailable when there is no answer within some three seconds.
        """
        stub = health_pb2_grpc.HealthStub(self.channel)
        request = health_pb2.HealthCheckRequest()
        # Not once: the first call on a connection that broke fails, whatever the gateway does now.
        answer: Any = self._ask("health check", lambda: stub.Check(request), _wire.Retry(3.0))
        return int(answer.status)

    def send(self, receiver: str, message_id: str, payload: bytes, *, check: bool = False, key: bytes | None = None) -> bool:
        """Hands a message for the party ``receiver`` to the gateway. True: it is accepted, which means durable there, and
        will be delivered, whether or not the other side is up.

        False: the gateway refused it; the reason is in the log. With ``check`` it raises Refused (UnknownReceiver,
        StoreFull, MessageTooLarge, IdConflict, ...) instead. Either way a lost answer never shows as True.

        A gateway that does not answer is tried again for ``patience`` seconds, then Unavailable: the message may have
        been accepted or not. Sending it again, with the same id and bytes, is safe: it is the same send, which the gateway
        accepts once and delivers once, whatever became of the first try and of the gateway in between (it remembers its
        last 65,536 sends; a Python PETNet gateway none). What is not safe is to send again after *another* message went out
        under the same id and was lost: the last one accepted wins.

        key: what this send is called, 16 bytes; the gateway takes two with one key for one. By default the client draws one
        for each send, and gives it again to a send whose answer it did not get. A program that tries again after its own
        restart keeps the key itself (Channel does).

        The payload may have up to the gateway's MAX_MESSAGE_BYTES (256 MiB), compressed; beyond: send_stream.
        """
        what = _wire.sending(receiver, message_id)
        given = self._outgoing(payload)
        named = self._unanswered.key_of(receiver, message_id, given) if key is None else _wire.checked_key(key)
        request = _wire.send_request(receiver, message_id, given, named)
        stub = mailbox_pb2_grpc.MailboxStub(self.channel)
        old = simple_pb2_grpc.SimpleRequestServerStub(self.channel)

        def attempt() -> bool:
            try:
                stub.Send(request)
            except grpc.RpcError as error:
                if not errors.is_unknown_call(error):
                    raise
                _wire.payload_of(old.ClientSimpleSend(_wire.old_send_request(request)), what)
            return True

        try:
            accepted = self._ask(what, attempt, _wire.Retry(self.patience))
        except errors.PetnetError as failure:
            (self._unanswered.lost if failure.maybe_accepted else self._unanswered.known)(request)
            if isinstance(failure, errors.Refused):
                return self._refused(failure, check)
            raise
        self._unanswered.known(request)
        return accepted

    def recv(self, message_id: str, timeout: float | None = None, *, sender: str | None = None) -> bytes:
        """The payload of a message that another party sent. Reading does not remove it.

        Without ``timeout`` as in PETNet's client: b"" when it is not there yet (the gateway waits for it for its
        RECV_WAIT_MS, one second, before it says so). An empty payload looks the same.

        With ``timeout``: waits for up to so many seconds (0 looks once, math.inf waits for ever), also while the gateway
        is down. Raises NotThere, which is a TimeoutError, if it did not come; b"" is then an empty payload.

        sender: only a message of this party: name it wherever you know it. Else what nobody has read before what was read;
            when two parties sent what nobody has read, IdConflict (30007), which names both.
        Raises BadPayload when the payload is not raw snappy and ``compress`` is on.
        """
        what = _wire.receiving(message_id)
        if timeout is None:
            found = self._look(message_id, sender, None, _wire.Retry(self.patience))
            return b"" if found is None else self._incoming(found, what)
        wait = _wire.Wait(what, timeout)
        while (found := self._look(message_id, sender, wait.next_ms(), wait.retry())) is None:
            time.sleep(wait.pause_after_none())
        return self._incoming(found, what)

    def send_stream(
        self,
        receiver: str,
        message_id: str,
        source: stream.Readable,
        length: int | None = None,
        *,
        progress: bool = False,
        key: bytes | None = None,
    ) -> int:
        """Sends a payload of any size, in pieces, and returns its sequence at the gateway: it is accepted. Never compressed.

        source: a path, an open binary file (from where it stands), bytes, or an iterable of bytes.
        length: its bytes, where it is known and cannot be found out. Then a message without room is refused at once.
        progress: shows a bar on stderr.
        key: as in send; each call has one of its own by default, which all its attempts share.

        Raises Refused when the gateway said no. When the connection breaks, a source that can be read again is sent
        again for up to ``patience`` seconds without progress; any other raises Unavailable. An error of the source ends
        the stream and is raised; half a message is never accepted.
        """
        what = _wire.sending(receiver, message_id)
        given = stream.Source(source, length)
        retry = _wire.Retry(self.patience, math.inf if given.repeatable else 1)
        stub = mailbox_pb2_grpc.MailboxStub(self.channel)
        named = _wire.checked_key(key)
        try:
            with stream.bar(progress, message_id, given.length) as bar:

                def attempt() -> int:
                    bar.reset()
                    pieces = _Pieces({"message_id": message_id, "receiver_id": receiver, "key": named}, given, bar)
                    try:
                        return int(stub.SendStream(pieces).sequence)
                    except grpc.RpcError:
                        # An error of the source shows as a cancelled call.
                        if pieces.error is not None:
                            raise pieces.error from None
                        if pieces.taken > 1:
                            retry.moved(self.patience)
                        raise

                return self._ask(what, attempt, retry)
        finally:
            given.close()

    def recv_stream(
        self,
        message_id: str,
        target: stream.Writable,
        timeout: float = 60.0,
        *,
        sender: str | None = None,
        progress: bool = False,
    ) -> int:
        """Receives a payload of any size, in pieces, into a file, and returns its length. Never decompressed.

        target: a path, which is the whole message in the end or what it was before; or an open binary file, which gets
            the pieces as they come.
        timeout: seconds to wait for the message to be there; raises NotThere. How long its pieces take is not limited.
        sender, progress: as in recv and send_stream.

        When the connection breaks it begins anew, for a path; an open file that has got something raises Unavailable.
        Raises Gone when the message ended while it was read.
        """
        what = _wire.receiving(message_id)
        wait = _wire.Wait(what, timeout)
        sink = stream.Sink(target)
        try:
            with stream.bar(progress, message_id, None) as bar:
                while not self._take(what, message_id, sender, wait, sink, bar):
                    time.sleep(wait.pause_after_none())
            sink.keep()
            return sink.written
        finally:
            sink.discard()

    def release(self, message_id: str, *, sender: str | None = None) -> int:
        """Says that a received message is needed no more, and returns how many there were. Without it, they stay for
        the gateway's MESSAGE_TTL (an hour)."""
        return self._release(_wire.release_request(message_id, sender))

    def release_topic(self, topic: str, *, sender: str | None = None) -> int:
        """Releases every received message whose id begins with ``topic``, and returns how many there were."""
        return self._release(_wire.release_topic_request(topic, sender))

    def release_all(self, *, sender: str | None = None) -> int:
        """Releases every received message (from ``sender``), and returns how many there were."""
        return self._release(_wire.release_all_request(sender))

    def track(self, message_id: str, receiver: str | None = None, *, sender: str | None = None) -> Tracked:
        """What became of a message: to ``receiver``, or, without one, of a message that arrived (from ``sender``)."""
        request = mailbox_pb2.TrackRequest(message_id=message_id, receiver_id=receiver or "", sender_id=sender or "")
        stub = mailbox_pb2_grpc.MailboxStub(self.channel)
        return _wire.tracked(self._ask(f"tracking {message_id!r}", lambda: stub.Track(request), _wire.Retry(self.patience)))

    def _release(self, request: Any) -> int:
        stub = mailbox_pb2_grpc.MailboxStub(self.channel)
        return int(self._ask("releasing", lambda: stub.Release(request), _wire.Retry(self.patience)).released)

    def _look(self, message_id: str, sender: str | None, wait_ms: int | None, retry: _wire.Retry) -> bytes | None:
        """The payload as it came, or None; waits for so long."""
        what = _wire.receiving(message_id)
        request = simple_pb2.ClientSimpleRecvRequest(message_id=message_id)
        metadata = _wire.recv_metadata(sender, wait_ms)
        stub = simple_pb2_grpc.SimpleRequestServerStub(self.channel)
        answer = self._ask(what, lambda: stub.ClientSimpleRecv(request, metadata=metadata), retry)
        return _wire.payload_of(answer, what)

    def _take(self, what: str, message_id: str, sender: str | None, wait: _wire.Wait, sink: stream.Sink, bar: Any) -> bool:
        """Writes the message to the sink; False if it is not there yet."""
        stub = mailbox_pb2_grpc.MailboxStub(self.channel)

        def attempt() -> bool:
            request = mailbox_pb2.ReceiveRequest(message_id=message_id, sender_id=sender or "", wait_ms=wait.next_ms())
            length = None
            for piece in stub.ReceiveStream(request):
                if length is None:
                    length = piece.len
                    bar.reset(total=length)
                sink.write(piece.payload)
                retry.moved(self.patience)
                bar.update(len(piece.payload))
            if length is not None and sink.written != length:
                raise errors.Damaged(f"{what}: the stream ended after {sink.written} of {length} bytes")
            return length is not None

        retry = wait.retry()
        return self._ask(what, attempt, retry, sink.restart)

    def _ask(
        self, what: str, call: Callable[[], Answer], retry: _wire.Retry, may_repeat: Callable[[], bool] = lambda: True
    ) -> Answer:
        """Calls until there is an answer, or an error that is one."""
        opened = self._channel
        while True:
            try:
                return call()
            except grpc.RpcError as error:
                failure = errors.of_call(f"{what}, at {self.target_url}", error)
                # Closed meanwhile, by another thread: the call goes with its connection.
                if not may_repeat() or self._channel is not opened:
                    raise failure from error
                pause = retry.pause_after(failure)
            except errors.Refused as refused:
                refused.maybe_accepted |= retry.failed
                raise
            time.sleep(pause)


class _Pieces(Iterator[Any]):
    """What gRPC sends of a source. gRPC takes it in a thread of its own and hides its errors: they are kept here."""

    def __init__(self, about: dict[str, Any], source: stream.Source, bar: Any) -> None:
        self.error: BaseException | None = None
        self.taken = 0
        self._pieces = source.pieces()
        self._bar = bar
        self._first: dict[str, Any] = {**about, "len": source.length}

    def __next__(self) -> Any:
        try:
            payload, last = next(self._pieces)
        except StopIteration:
            raise
        except BaseException as error:
            self.error = error
            raise
        self.taken += 1
        self._bar.update(len(payload))
        first, self._first = self._first, {}
        return mailbox_pb2.SendPiece(payload=payload, last=last, **first)
