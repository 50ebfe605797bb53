"""Sends that are tried again are one send: what goes over the wire, and what a gateway makes of it."""

import asyncio
import contextlib
from concurrent import futures

import grpc
import pytest

import petnet
import petnet.aio
from petnet import _wire, errors
from petnet._journal import Journal
from petnet.pb2 import mailbox_pb2, mailbox_pb2_grpc


class Loses(mailbox_pb2_grpc.MailboxServicer):
    """Accepts, and loses the answer to the first so many calls."""

    def __init__(self, losses=0):
        self.losses = losses
        self.keys = []
        self.status = grpc.StatusCode.UNAVAILABLE

    def _answer(self, key, context):
        self.keys.append(key)
        if len(self.keys) <= self.losses:
            context.abort(self.status, "lost")
        return mailbox_pb2.Accepted(sequence=len(self.keys))

    def Send(self, request, context):
        return self._answer(request.key, context)

    def SendStream(self, pieces, context):
        first = next(pieces)
        for _ in pieces:
            pass
        return self._answer(first.key, context)


@contextlib.contextmanager
def serving(servicer):
    server = grpc.server(futures.ThreadPoolExecutor(2))
    mailbox_pb2_grpc.add_MailboxServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait(10)


def test_every_try_of_a_send_has_its_key_and_another_send_another(tmp_path):
    (tmp_path / "file").write_bytes(bytes(3 << 20))
    gateway = Loses(losses=2)
    with serving(gateway) as address, petnet.Client("party_a", address) as client:
        assert client.send("party_b", "m", b"x")
        assert client.send("party_b", "m", b"x")
        gateway.losses = len(gateway.keys) + 1
        client.send_stream("party_b", "s", tmp_path / "file")
    first, again, third, other, stream, stream_again = gateway.keys
    assert first == again == third
    assert stream == stream_again
    assert len({first, other, stream}) == 3
    assert {len(key) for key in gateway.keys} == {16}


def test_a_send_whose_answer_is_not_known_has_its_key_when_the_program_sends_it_again():
    gateway = Loses(losses=1)
    with serving(gateway) as address, petnet.Client("party_a", address, patience=0) as client:
        with pytest.raises(petnet.Unavailable):
            client.send("party_b", "m", b"x")
        assert client.send("party_b", "other", b"x")
        assert client.send("party_b", "m", b"x")
        assert client.send("party_b", "m", b"x")
    lost, other, again, anew = gateway.keys
    assert lost == again
    assert len({lost, other, anew}) == 3


def test_the_twin_names_its_sends_too():
    gateway = Loses(losses=2)

    async def program(address):
        async with petnet.aio.Client("party_a", address) as client:
            assert await client.send("party_b", "m", b"x")
            gateway.losses = len(gateway.keys) + 1
            assert await client.send_stream("party_b", "s", bytes(3 << 20))

    with serving(gateway) as address:
        asyncio.run(program(address))
    first, again, third, stream, stream_again = gateway.keys
    assert first == again == third != stream == stream_again


def test_a_channel_sends_with_the_same_key_after_a_restart_of_its_program(tmp_path):
    gateway = Loses(losses=1)
    with serving(gateway) as address, petnet.Client("party_a", address, patience=0) as client:
        channel = petnet.Channel("t", "party_b", client, state=tmp_path / "state")
        with pytest.raises(petnet.Unavailable):
            channel.send(b"zero")
        channel.close()
        with petnet.Channel("t", "party_b", client, state=tmp_path / "state") as channel:
            assert channel.sent == 1
            channel.send(b"one")
    lost, again, next_one = gateway.keys
    assert lost == again != next_one
    assert Journal(tmp_path / "state", "t", "party_b").sent == 2


def test_a_key_has_sixteen_bytes():
    with petnet.Client("party_a", "localhost:1") as client, pytest.raises(ValueError, match="16 bytes"):
        client.send("party_b", "m", b"x", key=b"short")


def test_what_is_not_known_is_kept_in_mind_within_a_bound():
    unanswered = _wire.Unanswered()
    requests = [_wire.send_request("b", f"m{n}", b"x", _wire.new_key()) for n in range(1100)]
    for request in requests:
        unanswered.lost(request)
    assert unanswered.key_of("b", "m1099", b"x") == requests[1099].key
    assert unanswered.key_of("b", "m0", b"x") != requests[0].key
    assert unanswered.key_of("b", "m1099", b"y") != requests[1099].key
    unanswered.known(requests[1099])
    assert unanswered.key_of("b", "m1099", b"x") != requests[1099].key


@pytest.mark.parametrize(
    ("status", "details"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Received RST_STREAM with error code 11"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "GOAWAY received; Error code: 11; Debug Text: too_many_resets"),
        (grpc.StatusCode.UNAVAILABLE, "GOAWAY received"),
        (grpc.StatusCode.UNKNOWN, "Stream removed"),
        (grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2"),
    ],
)
def test_a_connection_that_is_cut_is_no_refusal(status, details):
    class Cut(grpc.RpcError):
        def code(self):
            return status

        def details(self):
            return details

    assert isinstance(errors.of_call("sending", Cut()), petnet.Unavailable)


def test_a_send_with_its_key_is_delivered_once_over_a_kill_of_the_gateway(fresh):
    pair = fresh()
    a, b = pair.client(pair.a), pair.client(pair.b)
    key = bytes(range(16))
    assert a.send("party_b", "m", b"hello", key=key, check=True)
    assert b.recv("m", timeout=30) == b"hello"
    assert b.release("m") == 1
    pair.a.kill()
    pair.a.start()
    assert a.send("party_b", "m", b"hello", key=key, check=True), "known, and so not delivered again"
    assert a.send("party_b", "after", b"x", check=True)
    b.recv("after", timeout=30)
    with pytest.raises(petnet.NotThere):
        b.recv("m", timeout=0)
    with pytest.raises(petnet.InvalidRequest, match="other bytes"):
        a.send("party_b", "m", b"other", key=key, check=True)
