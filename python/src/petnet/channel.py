"""An ordered conversation with one peer, that goes on where it was when its program starts again.

Messages have the ids ``topic:0``, ``topic:1``, ... in each direction, as PETAce has them, so the other side may be any
program that counts like this.
"""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
import threading
from collections.abc import Iterator
from types import TracebackType

from petnet._journal import Journal, default_path
from petnet._wire import State
from petnet.client import Client, log
from petnet.errors import InvalidRequest, MessageTooLarge, PendingSend, PetnetError, Refused

#: What the gateway says of a message itself: no later attempt would be accepted.
NEVER = (InvalidRequest, MessageTooLarge)


class Channel:
    """Sends to and receives from one peer, in order. One thread may send while another receives.

    The counters are in a state file, synced to disk. After a kill, a crash or a power cut:

    * what was **sent** is whatever ``sent`` says. A message is in the file before the gateway gets it, so one that was on
      its way is sent by the next program that opens the channel, with the same bytes under the same id: never lost, and
      never there in two versions. A program that starts again looks at ``sent`` to see what is still to be sent.
    * what ``recv`` returned is **received**, also if the program died before it did anything with it. For
      a message that must not be missed there is ``receiving``, which counts it when its block is done; a program
      that dies in the block gets it again.

    The peer sees each message once, under its number. The gateway keeps a message that was received for its MESSAGE_TTL
    (an hour) or until it is released: so long ``rewind`` can go back to it, and so long a reader may be down.
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
        """Opens the channel, and sends what was on its way when its last program ended.

        topic: names the conversation; the same on both sides, and another one for every run of a computation.
        peer: the party id of the other side.
        client: a Client of our gateway, which stays the caller's to close; by default Client.from_environment().
        state: the state file; by default TOPIC@PEER in the folder PETNET_STATE, or .petnet in the current folder. Remove it
            only together with the topic.
        release: releases each message once it is counted as received. Then rewind cannot go back to it.
        check_sender: takes only messages that the peer sent. False for a peer that runs Python PETNet, which does
            not say who it is.

        Raises StateError when the state file is damaged, in use, or of another channel; Unavailable or Refused when what
        was on its way cannot be sent now.
        """
        self.topic = topic
        self.peer = peer
        self._client = Client.from_environment() if client is None else client
        self._owned = client is None
        self._release = release
        self._sender = peer if check_sender else None
        self._sending = threading.Lock()
        self._receiving = threading.RLock()
        self._journal = Journal(pathlib.Path(state) if state else default_path(topic, peer), topic, peer)
        try:
            self.flush()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Channel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the state file, and the client if it is the channel's own."""
        self._journal.close()
        if self._owned:
            self._client.close()

    @property
    def sent(self) -> int:
        """How many messages are sent, which is the number of the next one."""
        return self._journal.sent

    @property
    def received(self) -> int:
        """How many messages are received, which is the number of the next one."""
        return self._journal.received

    def send(self, payload: bytes) -> int:
        """Sends the next message, and returns its number: the gateway has accepted it.

        Raises Refused, and its number is free again. Raises Unavailable when the gateway did not answer for the client's
        ``patience``: it may or may not have the message. Then do not send it again: call ``flush``, or open the
        channel anew, and it is sent. Until then ``send`` raises PendingSend.
        """
        with self._sending:
            number = self._journal.sent
            if self._journal.pending is not None:
                raise PendingSend(f"it is not known yet whether {self._id(number)!r} was accepted: call flush first")
            self._journal.sending(bytes(memoryview(payload)))
            try:
                self._client.send(self.peer, self._id(number), payload, check=True, key=self._journal.key)
            except Refused as refused:
                if not refused.maybe_accepted:
                    self._journal.withdrawn()
                raise
            self._journal.accepted()
            return number

    def flush(self) -> None:
        """Sends the message whose fate is not known, if there is one, and raises as ``send`` does.

        Its number is free again only after an InvalidRequest or MessageTooLarge, which no later attempt would change. After
        any other error the message stays the next one: an earlier attempt may have been accepted.
        """
        with self._sending:
            if self._journal.pending is not None:
                message_id = self._id(self._journal.sent)
                try:
                    self._client.send(self.peer, message_id, self._journal.pending, check=True, key=self._journal.key)
                except NEVER:
                    # Unless the first attempt was accepted, before the gateway's limits were lowered.
                    if self._client.track(message_id, self.peer).state is State.UNKNOWN:
                        self._journal.withdrawn()
                        raise
                self._journal.accepted()

    def recv(self, timeout: float | None = None) -> bytes:
        """The next message, counted as received.

        timeout: seconds to wait for it; None waits for ever, also while the gateway is down. Raises NotThere.
        """
        with self._receiving:
            payload = self._next(timeout)
            self._count()
            return payload

    @contextlib.contextmanager
    def receiving(self, timeout: float | None = None) -> Iterator[bytes]:
        """The next message for a ``with`` block. It is counted as received when the block ends without an exception."""
        with self._receiving:
            yield self._next(timeout)
            self._count()

    def rewind(self, received: int) -> None:
        """Goes back to the message with this number, which is then the next one received."""
        with self._receiving:
            if not 0 <= received <= self._journal.received:
                raise ValueError(f"can only go back to one of the {self._journal.received} received, not to {received}")
            self._journal.count_received(received)

    def _next(self, timeout: float | None) -> bytes:
        wanted = self._id(self._journal.received)
        return self._client.recv(wanted, math.inf if timeout is None else timeout, sender=self._sender)

    def _count(self) -> None:
        number = self._journal.received
        self._journal.count_received(number + 1)
        if self._release:
            try:
                self._client.release(self._id(number), sender=self._sender)
            except PetnetError as failure:
                # It goes with its time. The message that is counted must still be handed over.
                log.warning("%s; the gateway keeps the message for its MESSAGE_TTL", failure)

    def _id(self, number: int) -> str:
        return f"{self.topic}:{number}"
