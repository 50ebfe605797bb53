"""What can go wrong, one class for each thing that a program may want to tell apart.

Everything is a PetnetError. ``code`` is the gateway's number (``Response.error_code``) where it gave one.
"""

from __future__ import annotations

from typing import Any

import grpc


class PetnetError(Exception):
    """Base of all errors of this package."""

    def __init__(self, message: str, code: int | None = None, maybe_accepted: bool = False) -> None:
        super().__init__(message)
        #: The gateway's error number, if it gave one.
        self.code = code
        #: Of a send: the message may have been accepted all the same, because the answer to an attempt was lost.
        self.maybe_accepted = maybe_accepted


class NotThere(PetnetError, TimeoutError):
    """The message did not come in time. It may come later: receive again."""


class Unavailable(PetnetError, ConnectionError):
    """The gateway did not answer, or cannot work now. What was sent may have been accepted or not: send it again under
    the same id, with the same bytes, from the same client; it is the same send."""


class Refused(PetnetError):
    """The gateway answered no. Sending the same again does not help, if nothing else changes."""


class InvalidRequest(Refused):
    """It cannot be right, however often it is sent: an id that is empty or over 1024 bytes, for example (20002)."""


class UnknownReceiver(Refused):
    """The receiver is not in the gateway's party file, or is our own party (30003)."""


class AccessDenied(Refused):
    """The certificate, or a whitelist, does not allow it (30004)."""


class StoreFull(Refused):
    """The gateway's disk or quota is full (30005). It takes messages again as soon as there is room."""


class MessageTooLarge(Refused):
    """Too large for one call: use streams; or too large at all (30006)."""


class IdConflict(Refused):
    """The id is held with other bytes, and the gateway runs with MESSAGE_ID_REUSE=reject; or it was asked for without a
    sender and two parties have sent under it what nobody has read (30007)."""


class Gone(PetnetError):
    """The message ended (released, expired, replaced) while it was read."""


class Damaged(PetnetError):
    """The gateway's disk or store failed; it hands out nothing rather than wrong bytes (10002, 10003)."""


class BadPayload(PetnetError, ValueError):
    """The payload is not raw snappy. Its sender does not compress: receive it with ``Client(..., compress=False)``."""


class PendingSend(PetnetError):
    """The fate of this channel's last message is not known yet: call ``flush`` before the next ``send``."""


class StateError(PetnetError):
    """The state file of a channel is damaged, in use, or of another channel."""


_BY_CODE: dict[int, type[PetnetError]] = {
    10002: Damaged,
    10003: Damaged,
    20002: InvalidRequest,
    30003: UnknownReceiver,
    30004: AccessDenied,
    30005: StoreFull,
    30006: MessageTooLarge,
    30007: IdConflict,
}
_BY_STATUS: dict[grpc.StatusCode, type[PetnetError]] = {
    # So gRPC itself answers, before the gateway has read the message.
    grpc.StatusCode.OUT_OF_RANGE: MessageTooLarge,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.ABORTED: Gone,
    grpc.StatusCode.DATA_LOSS: Damaged,
}
#: A connection that breaks in the middle of a call, and a call of grpc.aio that was ended while it was written to and whose
#: answer is lost by that, are INTERNAL, UNKNOWN or (when the gateway asked for calm) RESOURCE_EXHAUSTED, with one of these
#: texts and no number of the gateway's.
_BROKEN = ("RST_STREAM", "GOAWAY", "ENHANCE_YOUR_CALM", "Bandwidth exhausted", "Stream removed", "Internal error from Core")
_BROKEN_AS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.RESOURCE_EXHAUSTED)
_CODE_KEY = "petnet-error-code"


def of_response(what: str, code: int, message: str) -> PetnetError:
    """The error of a Response without success."""
    kind = _BY_CODE.get(code, Refused)
    # What is not known to come before acceptance may have come after it.
    maybe_accepted = kind in (Refused, Damaged)
    return kind(f"{what}: {message or 'refused without a reason'} (error {code})", code, maybe_accepted)


def of_call(what: str, error: grpc.RpcError) -> PetnetError:
    """The error of a call that failed."""
    status: Any = error.code() if hasattr(error, "code") else grpc.StatusCode.UNKNOWN
    details = (error.details() if hasattr(error, "details") else None) or str(error)
    code = _number(error)
    text = f"{what}: {details} ({status.name}{'' if code is None else f', error {code}'})"
    if status in _BY_STATUS:
        kind = _BY_STATUS[status]
    elif code is not None:
        kind = _BY_CODE.get(code, Refused)
    elif status in _BROKEN_AS and any(text in details for text in _BROKEN):
        kind = Unavailable
    else:
        kind = Refused
    # What is not known to come before acceptance may have come after it.
    return kind(text, code, maybe_accepted=code is not None and kind in (Refused, Damaged))


def is_unknown_call(error: grpc.RpcError) -> bool:
    """Whether the gateway does not know the call: it is an old one."""
    return hasattr(error, "code") and error.code() is grpc.StatusCode.UNIMPLEMENTED


def _number(error: Any) -> int | None:
    trailing = (error.trailing_metadata() if hasattr(error, "trailing_metadata") else None) or ()
    for key, value in trailing:
        if key == _CODE_KEY and str(value).isdigit():
            return int(value)
    return None
