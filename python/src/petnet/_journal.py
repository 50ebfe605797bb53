"""What a channel remembers across restarts of its program: how far it is, and the message that is on its way.

An append-only file of records, each with a checksum, replayed when it is opened. Invariants: a message is in the file,
synced, before it is given to the gateway; the count of what was received is synced before the program gets the message.
An unfinished record at the end (the program or the machine died while it was written) never happened and is cut off.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import stat
import struct
import threading
import zlib
from typing import IO
from urllib.parse import quote

from petnet._wire import new_key
from petnet.errors import StateError
from petnet.stream import sync_folder

try:
    import fcntl
except ImportError:  # Windows: two programs with the same state file are not noticed there.
    fcntl = None  # type: ignore[assignment]

#: Kind, number, length of the payload; then the checksum of that, and the one of the payload.
_HEAD = struct.Struct("<cQQ")
_SUMS = struct.Struct("<II")
_WHOLE_HEAD = _HEAD.size + _SUMS.size
_CHANNEL, _KEY, _SENDING, _WITHDRAWN, _SENT, _RECEIVED = b"C", b"K", b"I", b"W", b"S", b"R"
_FORMAT = 1
#: A file that is longer is written anew, with only what counts.
_LONG = 1 << 20
#: Bytes of a file name; file systems have 255, and ".lock" comes on top.
_NAME = 240


def default_path(topic: str, peer: str) -> pathlib.Path:
    """A file for each channel in the folder PETNET_STATE, or .petnet in the current folder."""
    folder = pathlib.Path(os.environ.get("PETNET_STATE") or ".petnet")
    name = f"{quote(topic, safe='')}@{quote(peer, safe='')}"
    if len(name) > _NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()
        name = f"{name[: _NAME - len(digest) - 1]}~{digest}"
    return folder / name


class Journal:
    """The open state file of one channel. May be used by several threads."""

    def __init__(self, path: pathlib.Path, topic: str, peer: str) -> None:
        self._path = path
        self._about = json.dumps({"format": _FORMAT, "topic": topic, "peer": peer}).encode()
        self._lock = threading.Lock()
        #: Messages that are sent: accepted by the gateway. The next one has this number.
        self.sent = 0
        #: Messages that are received. The next one has this number.
        self.received = 0
        #: Message number ``sent``, if it was given to the gateway and it is not known whether it was accepted.
        self.pending: bytes | None = None
        #: What its send is called, in every try; a file of before has no name for it, and each opening draws one.
        self.key = new_key()
        try:
            _make_folder(path.parent)
            self._locked = _lock(path)
            try:
                self._open()
            except BaseException:
                self._locked.close()
                raise
        except OSError as error:
            raise StateError(f"{path}: cannot open the state of the channel: {error}") from error

    def sending(self, payload: bytes) -> None:
        """Message number ``sent`` is about to be given to the gateway."""
        with self._lock:
            self.key = new_key()
            # Before the message, and synced with it.
            self._append(_KEY, self.sent, self.key, sync=False)
            self._append(_SENDING, self.sent, payload, sync=True)
            self.pending = payload

    def withdrawn(self) -> None:
        """The gateway refused it for certain."""
        with self._lock:
            self._append(_WITHDRAWN, self.sent, b"", sync=True)
            self.pending = None

    def accepted(self) -> None:
        """The gateway has it. Not synced: if this is lost, it is sent again with the same id and bytes."""
        with self._lock:
            self._append(_SENT, self.sent + 1, b"", sync=False)
            self.sent += 1
            self.pending = None
            self._shorten()

    def count_received(self, received: int) -> None:
        with self._lock:
            self._append(_RECEIVED, received, b"", sync=True)
            self.received = received
            self._shorten()

    def close(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            self._file.close()
            self._locked.close()

    def _open(self) -> None:
        # Unbuffered: a record goes out in one write, and what failed is not tried again behind our back.
        self._file = open(self._path, "a+b", buffering=0, opener=_private)  # noqa: SIM115 closed by close
        try:
            # A device can be endless.
            if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
                raise OSError("it is not a file")
            self._file.seek(0)
            self._size = self._replay(self._file.read())
            self._file.truncate(self._size)
            if self._size == 0:
                self._append(_CHANNEL, 0, self._about, sync=True)
                sync_folder(self._path.parent)
        except BaseException:
            self._file.close()
            raise

    def _replay(self, content: bytes) -> int:
        """Takes up what the records say, and returns where the last whole one ends."""
        at = 0
        while at + _WHOLE_HEAD <= len(content):
            kind, number, length = _HEAD.unpack_from(content, at)
            of_head, of_payload = _SUMS.unpack_from(content, at + _HEAD.size)
            if zlib.crc32(content[at : at + _HEAD.size]) != of_head:
                # What a power cut leaves of an unfinished record is nothing, or zeros.
                if any(content[at:]):
                    raise self._damaged(at)
                break
            end = at + _WHOLE_HEAD + length
            payload = content[at + _WHOLE_HEAD : end]
            if end > len(content):
                break
            if zlib.crc32(payload) != of_payload:
                if end < len(content):
                    raise self._damaged(at)
                break
            self._take(kind, number, payload)
            at = end
        return at

    def _damaged(self, at: int) -> StateError:
        return StateError(f"{self._path}: damaged at byte {at}; move it away to begin this channel anew, from message 0")

    def _take(self, kind: bytes, number: int, payload: bytes) -> None:
        if kind == _CHANNEL:
            if payload != self._about:
                raise StateError(f"{self._path}: it is the state of {payload.decode()}, not of {self._about.decode()}")
        elif kind == _KEY:
            self.key = payload
        elif kind == _SENDING:
            self.pending = payload
        elif kind == _WITHDRAWN:
            self.pending = None
        elif kind == _SENT:
            self.sent, self.pending = number, None
        elif kind == _RECEIVED:
            self.received = number
        else:
            raise StateError(f"{self._path}: unknown record {kind!r}; was it written by a newer version?")

    def _append(self, kind: bytes, number: int, payload: bytes, *, sync: bool) -> None:
        record = _record(kind, number, payload)
        try:
            written = self._file.write(record)
            if written != len(record):
                raise OSError(f"only {written} of {len(record)} bytes were written: the disk may be full")
            if sync:
                os.fsync(self._file.fileno())
        except OSError as error:
            # After a failed write nobody knows what the file holds; what it holds is read when it is opened again.
            self._file.close()
            raise StateError(f"{self._path}: cannot write the state of the channel: {error}; open it anew") from error
        except ValueError as error:
            raise StateError(f"{self._path}: the channel is closed") from error
        self._size += len(record)

    def _shorten(self) -> None:
        """Replaces a long file by one with only what counts, in one step."""
        if self._size < _LONG or self.pending is not None:
            return
        records = [_record(_CHANNEL, 0, self._about), _record(_SENT, self.sent, b"")]
        content = b"".join([*records, _record(_RECEIVED, self.received, b"")])
        fresh = self._path.with_name(self._path.name + ".new")
        try:
            with open(fresh, "wb", opener=_private) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, self._path)
            sync_folder(self._path.parent)
            self._file.close()
            self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115 closed by close
        except OSError as error:
            self._file.close()
            raise StateError(f"{self._path}: cannot write it anew: {error}; open it again") from error
        self._size = len(content)


def _record(kind: bytes, number: int, payload: bytes) -> bytes:
    head = _HEAD.pack(kind, number, len(payload))
    return head + _SUMS.pack(zlib.crc32(head), zlib.crc32(payload)) + payload


def _make_folder(folder: pathlib.Path) -> None:
    """Makes a folder, and those above it, durably: a power cut must not take it with the file in it."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder.parent)


def _private(path: str, flags: int) -> int:
    """Opens a file that only its user may read: the message that is on its way stands in it."""
    return os.open(path, flags, 0o600)


def _lock(path: pathlib.Path) -> IO[bytes]:
    """Held until it is closed, or the process ends: two programs on one channel would both send its next number."""
    file = open(path.with_name(path.name + ".lock"), "ab")  # noqa: SIM115 closed by Journal.close
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise StateError(f"{path}: another program, or another Channel of this one, has this channel open") from error
    return file
