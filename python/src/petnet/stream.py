"""Payloads of any size: where they come from, where they go, and how far they are.

Invariants: a piece is at most PIECE bytes, and only the last one of a source that came to its end is marked as last; a
file that is written to is the whole message or what it was before.
"""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator
from typing import IO, Any, Union, cast

from tqdm import tqdm

#: Bytes of a piece; the gateway takes at most 1 MiB.
PIECE = 1 << 18

#: What can be sent: a path, an open binary file, bytes, or an iterable of bytes.
Readable = Union[str, "os.PathLike[str]", IO[bytes], bytes, Iterable[bytes]]
#: Where a message can go: a path, or an open binary file.
Writable = Union[str, "os.PathLike[str]", IO[bytes]]


class Source:
    """What is sent, in pieces, from its beginning as often as it can be repeated."""

    def __init__(self, given: Readable, length: int | None) -> None:
        self._opened: IO[bytes] | None = None
        if isinstance(given, (bytes, bytearray, memoryview)):
            given = io.BytesIO(given)
        elif isinstance(given, (str, os.PathLike)):
            given = self._opened = open(given, "rb")  # noqa: SIM115 closed by close
        self._file = cast("IO[bytes]", given) if hasattr(given, "read") else None
        self._chunks = None if self._file else given
        self._start: int | None = None
        self._reading = threading.Lock()
        if self._file is not None and self._file.seekable():
            self._start = self._file.tell()
            if length is None:
                length = self._file.seek(0, os.SEEK_END) - self._start
                self._file.seek(self._start)
        #: Bytes of the whole, if known.
        self.length = length
        #: Whether it can be sent again from its beginning after a break.
        self.repeatable = self._start is not None

    def pieces(self) -> Iterator[tuple[bytes, bool]]:
        """Pieces, and whether each is the last one."""
        held = b""
        for piece in self._from_file() if self._file is not None else self._from_chunks():
            if held:
                yield held, False
            held = piece
        yield held, True

    def _from_file(self) -> Iterator[bytes]:
        file = cast("IO[bytes]", self._file)
        if self._start is None:
            yield from iter(lambda: file.read(PIECE), b"")
            return
        at = self._start
        while True:
            # gRPC's thread of an attempt that broke may still be in here when the next one reads.
            with self._reading:
                file.seek(at)
                piece = file.read(PIECE)
            if not piece:
                return
            at += len(piece)
            yield piece

    def _from_chunks(self) -> Iterator[bytes]:
        return in_pieces(cast("Iterable[bytes]", self._chunks))

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()


def in_pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Chunks of any size as pieces: small ones together, large ones cut."""
    held = bytearray()
    for chunk in chunks:
        held += chunk
        while len(held) >= PIECE:
            yield bytes(held[:PIECE])
            del held[:PIECE]
    if held:
        yield bytes(held)


class Sink:
    """Where a message goes. A path gets it when it is whole, by a rename; a file that is open gets it as it comes."""

    def __init__(self, given: Writable) -> None:
        #: Bytes written.
        self.written = 0
        self._target: pathlib.Path | None = None
        self._temporary: str | None = None
        if not isinstance(given, (str, os.PathLike)):
            self._file, self._owned = given, False
            return
        self._owned = True
        # A link is followed. What is no file (/dev/null, a pipe) must not be replaced by one.
        path = pathlib.Path(os.path.realpath(given))
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            self._file = cast("IO[bytes]", open(path, "wb", buffering=0))  # noqa: SIM115 closed by keep or discard
            return
        self._target = path
        handle, self._temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        self._file = os.fdopen(handle, "wb")

    def write(self, piece: bytes) -> None:
        view = memoryview(piece)
        while view:
            view = view[self._file.write(view) or 0 :]
        self.written += len(piece)

    def restart(self) -> bool:
        """Forgets what was written, for another attempt; False if it cannot."""
        if self._temporary is not None:
            self._file.seek(0)
            self._file.truncate()
            self.written = 0
        return self.written == 0

    def keep(self) -> None:
        """The message is whole: durable first, then under its name."""
        self._file.flush()
        if self._temporary is None or self._target is None:
            self.discard()
            return
        # mkstemp makes it readable for us only; a new file of ours is what the umask says.
        mode = stat.S_IMODE(self._target.stat().st_mode) if self._target.exists() else 0o666 & ~_umask()
        os.fchmod(self._file.fileno(), mode)
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary, self._target)
        self._temporary = None
        sync_folder(self._target.parent)

    def discard(self) -> None:
        """Leaves nothing behind, if it was not kept."""
        if self._owned:
            self._file.close()
        if self._temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary)
            self._temporary = None


def _umask() -> int:
    """The umask can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def sync_folder(folder: pathlib.Path) -> None:
    """Makes a rename in it durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def bar(shown: bool, what: str, length: int | None) -> Any:
    """A progress bar on stderr, in bytes; one that shows nothing if it is not wanted."""
    return tqdm(desc=what, total=length, unit="B", unit_scale=True, unit_divisor=1024, disable=not shown)
