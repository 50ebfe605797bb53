"""Client of the PETNet gateway: messages between the parties of a privacy computation that are not lost.

    with petnet.Client("party_a") as client:
        client.send("party_b", "greeting", b"hello")
        answer = client.recv("answer", timeout=60)

``Channel`` is an ordered conversation with one peer that survives a restart of the program, ``petnet.aio`` the same for
asyncio, ``petnet.pb2`` the bare stubs.
"""

from petnet._wire import State, Tracked
from petnet.channel import Channel
from petnet.client import Client
from petnet.errors import (
    AccessDenied,
    BadPayload,
    Damaged,
    Gone,
    IdConflict,
    InvalidRequest,
    MessageTooLarge,
    NotThere,
    PendingSend,
    PetnetError,
    Refused,
    StateError,
    StoreFull,
    Unavailable,
    UnknownReceiver,
)

#: The name that it has in PETNet.
PETNetClient = Client

__all__ = [
    "AccessDenied",
    "BadPayload",
    "Channel",
    "Client",
    "Damaged",
    "Gone",
    "IdConflict",
    "InvalidRequest",
    "MessageTooLarge",
    "NotThere",
    "PETNetClient",
    "PendingSend",
    "PetnetError",
    "Refused",
    "State",
    "StateError",
    "StoreFull",
    "Tracked",
    "Unavailable",
    "UnknownReceiver",
]
