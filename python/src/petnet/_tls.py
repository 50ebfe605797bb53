"""From what a user gives (PEM bytes, PEM text or paths) to credentials and options of a gRPC channel."""

from __future__ import annotations

import os
import pathlib
from typing import Any, Union

import grpc

#: PEM as bytes or text, or the path of a PEM file.
Pem = Union[bytes, str, "os.PathLike[str]"]

#: Options of every channel. Sizes are the gateway's to limit. A connection that is dead is noticed within 50 s, also in
#: the middle of a call; a gateway that comes back is found again within 2 s.
OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]


def credentials(ca: Pem | None, key: Pem | None, certificate: Pem | None) -> grpc.ChannelCredentials | None:
    """TLS with all three, plaintext with none. Some of them are a mistake that must not end in plaintext."""
    given = {"ca_certificates": ca, "client_key": key, "client_certificates": certificate}
    pems = {name: _pem(one) for name, one in given.items() if one is not None}
    if not pems:
        return None
    if len(pems) < len(given):
        raise ValueError(
            "TLS needs ca_certificates, client_key and client_certificates; only some of them are given "
            "(without any, the client speaks plaintext)"
        )
    # An empty file, or a variable that is not set, does not mean plaintext.
    if empty := [name for name, pem in pems.items() if not pem.strip()]:
        raise ValueError(f"{' and '.join(empty)}: empty; for a client that speaks plaintext leave them out")
    roots, private, chain = pems.values()
    return grpc.ssl_channel_credentials(root_certificates=roots, private_key=private, certificate_chain=chain)


def options(server_name: str | None) -> list[tuple[str, Any]]:
    """Options of a channel to a gateway whose certificate may have another name than its address."""
    return [*OPTIONS, ("grpc.ssl_target_name_override", server_name)] if server_name else OPTIONS


def in_folder(folder: str | os.PathLike[str]) -> tuple[bytes, bytes, bytes]:
    """The files that `petnet certs init` makes for a party's programs: ca.crt, client.key, client.crt."""
    path = pathlib.Path(folder)
    return tuple((path / name).read_bytes() for name in ("ca.crt", "client.key", "client.crt"))  # type: ignore[return-value]


def _pem(given: Pem) -> bytes:
    if isinstance(given, bytes):
        return given
    if isinstance(given, str) and (not given or "-----BEGIN" in given):
        return given.encode()
    return pathlib.Path(given).read_bytes()
