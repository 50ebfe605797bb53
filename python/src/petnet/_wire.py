"""What the blocking client and the asyncio one have in common: requests, answers, compression, how long to try.

Nothing here does I/O.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import hashlib
import math
import os
import random
import threading
import time
from typing import Any

import cramjam

from petnet import errors
from petnet.pb2 import mailbox_pb2, simple_pb2

#: The longest that one call waits at the gateway; longer waits are several calls.
_WAIT_AT_ONCE = 30.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0
#: Breaks of one stream after which it may begin anew.
_BREAKS = 20
#: Bytes of the key of a send.
KEY_BYTES = 16
#: Sends whose fate is not known that are kept in mind.
_UNANSWERED = 1024
#: One element of raw snappy makes at most 64 bytes of 3.
_BEST_RATIO = 22


class State(enum.Enum):
    """What became of a message."""

    UNKNOWN = 0  #: not held, and not among those that ended lately
    PENDING = 1  #: accepted, and to be delivered
    DELIVERED = 2  #: the peer has it
    DEAD = 3  #: could not be delivered; see ``reason``
    HELD = 4  #: it arrived, and is in the mailbox
    RELEASED = 5  #: it was in the mailbox, and was released
    ENDED = 6  #: it was pending; a newer one with its id took its place, or the operator dropped it


@dataclasses.dataclass(frozen=True)
class Tracked:
    """The answer of ``track``. ``length`` is in bytes; ``sequence`` is its place in the order of what was accepted."""

    state: State
    sequence: int
    length: int
    sender: str
    reason: str


class Retry:
    """How long a call is tried again while the gateway does not answer. Pauses grow, and differ between programs."""

    def __init__(self, seconds: float, attempts: float = math.inf) -> None:
        self._end = time.monotonic() + seconds
        self._attempts = attempts
        self._pause = _FIRST_PAUSE
        self._fresh: float | None = None
        self._breaks = _BREAKS
        #: Whether an attempt ended without an answer.
        self.failed = False

    def moved(self, seconds: float) -> None:
        """A stream moved: when it breaks, there are so many seconds from then on, for a bounded number of breaks."""
        self._fresh = seconds

    def pause_after(self, failure: errors.PetnetError) -> float:
        """Seconds to wait before the next attempt; raises the failure if there is to be none."""
        now = time.monotonic()
        if self._fresh is not None and self._breaks > 0:
            self._end, self._pause = now + self._fresh, _FIRST_PAUSE
            self._fresh = None
            self._breaks -= 1
        self._attempts -= 1
        unanswered = isinstance(failure, errors.Unavailable)
        failure.maybe_accepted |= self.failed or unanswered
        if not unanswered or self._attempts <= 0 or now >= self._end:
            raise failure
        self.failed = True
        pause = self._pause * random.uniform(0.5, 1.0)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return pause


class Wait:
    """Waiting for a message in as many calls as it takes."""

    def __init__(self, what: str, seconds: float) -> None:
        if math.isnan(seconds) or seconds < 0:
            raise ValueError(f"a timeout is a number of seconds from 0 on, not {seconds}")
        self._what, self._seconds = what, seconds
        self._end = time.monotonic() + seconds
        self._pause = _FIRST_PAUSE
        self._asked, self._began = 0.0, 0.0

    def retry(self) -> Retry:
        """For the calls of this wait: as long as it lasts, but at least a second, which a connection may take."""
        return Retry(max(self._end - time.monotonic(), 1.0))

    def next_ms(self) -> int:
        """How long the next call is to wait, in milliseconds."""
        self._began = time.monotonic()
        self._asked = min(max(self._end - self._began, 0.0), _WAIT_AT_ONCE)
        return math.ceil(self._asked * 1000)

    def pause_after_none(self) -> float:
        """The message is not there yet: seconds to wait before the next call. Raises NotThere when time is over."""
        now = time.monotonic()
        if now >= self._end:
            raise errors.NotThere(f"{self._what}: not there within {self._seconds:g} s")
        # A gateway that answers much earlier than it was asked to does not wait (Python PETNet).
        if now - self._began >= self._asked / 2:
            return 0.0
        self._pause = min(2 * self._pause, _LONGEST_PAUSE / 4)
        return min(self._pause, self._end - now)


def compress(payload: bytes) -> bytes:
    """Raw snappy, as PETNet's client has it."""
    return bytes(cramjam.snappy.compress_raw(payload))


def decompress(payload: bytes, what: str) -> bytes:
    """Raw snappy back to bytes, and nothing to nothing. The length that it claims is not believed before it is plausible."""
    if not payload:
        return b""
    try:
        claimed = cramjam.snappy.decompress_raw_len(payload)
        if claimed <= _BEST_RATIO * len(payload):
            return bytes(cramjam.snappy.decompress_raw(payload))
        why = f"{len(payload)} bytes claim to be {claimed}"
    except Exception as error:
        why = str(error)
    raise errors.BadPayload(f"{what}: not raw snappy ({why}); does its sender compress? Else use Client(compress=False)")


def send_request(receiver: str, message_id: str, payload: bytes, key: bytes) -> mailbox_pb2.SendRequest:
    return mailbox_pb2.SendRequest(receiver_id=receiver, message_id=message_id, payload=payload, key=key)


def old_send_request(request: mailbox_pb2.SendRequest) -> simple_pb2.ClientSimpleSendRequest:
    """The same for a gateway that knows petnet.simple.v1 only."""
    return simple_pb2.ClientSimpleSendRequest(
        receiver_id=request.receiver_id, message_id=request.message_id, payload=request.payload
    )


def new_key() -> bytes:
    return os.urandom(KEY_BYTES)


def checked_key(key: bytes | None) -> bytes:
    """The key that was given, or a new one."""
    if key is None:
        return new_key()
    if len(key) != KEY_BYTES:
        raise ValueError(f"the key of a send has {KEY_BYTES} bytes, not {len(key)}")
    return bytes(key)


class Unanswered:
    """Keys of sends whose fate is not known, so that the same send, tried again by the program, has the same key.

    The last 1024 of them. May be used by several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: collections.OrderedDict[bytes, bytes] = collections.OrderedDict()

    def key_of(self, receiver: str, message_id: str, payload: bytes) -> bytes:
        with self._lock:
            if not self._keys:
                return new_key()
        known = _digest(receiver, message_id, payload)
        with self._lock:
            return self._keys.get(known) or new_key()

    def lost(self, request: mailbox_pb2.SendRequest) -> None:
        """Nobody knows whether it was accepted."""
        digest = _digest(request.receiver_id, request.message_id, request.payload)
        with self._lock:
            self._keys[digest] = request.key
            self._keys.move_to_end(digest)
            if len(self._keys) > _UNANSWERED:
                self._keys.popitem(last=False)

    def known(self, request: mailbox_pb2.SendRequest) -> None:
        """It was accepted, or refused for certain."""
        with self._lock:
            if not self._keys:
                return
        digest = _digest(request.receiver_id, request.message_id, request.payload)
        with self._lock:
            self._keys.pop(digest, None)


def _digest(receiver: str, message_id: str, payload: bytes) -> bytes:
    names = f"{len(receiver)}:{receiver}{message_id}".encode(errors="surrogatepass")
    digest = hashlib.blake2b(len(names).to_bytes(8, "big") + names, digest_size=16)
    digest.update(payload)
    return digest.digest()


def recv_metadata(sender: str | None, wait_ms: int | None) -> list[tuple[str, str]]:
    """What petnet.simple.v1 has no fields for."""
    metadata = [] if wait_ms is None else [("petnet-wait-ms", str(wait_ms))]
    return [*metadata, ("petnet-sender", _escaped(sender))] if sender else metadata


def _escaped(party: str) -> str:
    """Metadata is printable ASCII, party ids need not be: other bytes and % travel as %XX."""
    return "".join(chr(byte) if 0x20 <= byte <= 0x7E and byte != 0x25 else f"%{byte:02X}" for byte in party.encode())


def payload_of(response: Any, what: str) -> bytes | None:
    """The payload of an answer; None: nothing there."""
    if not response.success:
        raise errors.of_response(what, response.error_code, response.error_msg)
    return response.payload if response.HasField("payload") else None


def release_request(message_id: str, sender: str | None) -> mailbox_pb2.ReleaseRequest:
    return mailbox_pb2.ReleaseRequest(message_id=message_id, sender_id=sender or "")


def release_topic_request(topic: str, sender: str | None) -> mailbox_pb2.ReleaseRequest:
    if not topic:
        raise ValueError("a topic must not be empty: it would be every message; release_all() says that")
    return mailbox_pb2.ReleaseRequest(topic=topic, sender_id=sender or "")


def release_all_request(sender: str | None) -> mailbox_pb2.ReleaseRequest:
    return mailbox_pb2.ReleaseRequest(all=True, sender_id=sender or "")


def tracked(response: Any) -> Tracked:
    return Tracked(State(response.state), response.sequence, response.len, response.sender_id, response.reason)


def sending(receiver: str, message_id: str) -> str:
    return f"sending {message_id!r} to {receiver!r}"


def receiving(message_id: str) -> str:
    return f"receiving {message_id!r}"
