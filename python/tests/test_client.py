"""The blocking client against real gateways."""

import logging
import threading

import pytest

import petnet
from harness import free_ports, until, waiting_receives


def test_a_program_sends_and_receives_both_ways(shared, name):
    with petnet.PETNetClient("party_a", shared.a.address) as a, petnet.Client("party_b", target_url=shared.b.address) as b:
        assert a.health_check() == 1
        assert a.send("party_b", name, b"hello" * 1000) is True
        assert b.recv(name, timeout=30) == b"hello" * 1000
        # Reading does not remove.
        assert b.recv(message_id=name) == b"hello" * 1000
        assert b.send(receiver="party_a", message_id=name, payload=b"back") is True
        assert a.recv(name, timeout=30) == b"back"


def test_a_closed_client_opens_again_when_it_is_used(a):
    assert a.health_check() == 1
    a.close()
    assert a.health_check() == 1


def test_what_is_not_there_is_empty_without_a_timeout_and_an_error_with_one(a, name):
    assert a.recv(name) == b""
    for error in (petnet.NotThere, TimeoutError):
        with pytest.raises(error, match="not there within"):
            a.recv(name, timeout=0.1)
    with pytest.raises(petnet.NotThere):
        a.recv(name, 0)
    with pytest.raises(ValueError, match="number of seconds"):
        a.recv(name, timeout=-1)


def test_an_empty_payload_is_not_nothing(shared, a, b, name):
    assert a.send("party_b", name, b"")
    assert b.recv(name, timeout=30) == b""
    # Of a program that does not compress.
    assert shared.client(shared.a, compress=False).send("party_b", name + "/plain", b"")
    assert b.recv(name + "/plain", timeout=30) == b""


def test_a_receive_waits_for_a_message_that_comes_later(a, b, name):
    received = []
    waiting = threading.Thread(target=lambda: received.append(b.recv(name, timeout=60)))
    waiting.start()
    assert a.send("party_b", name, b"late")
    waiting.join(60)
    assert received == [b"late"]


def test_a_refused_send_is_false_and_in_the_log_or_an_error_for_those_who_ask(a, caplog):
    with caplog.at_level(logging.ERROR, "petnet"):
        assert a.send("nobody", "m", b"x") is False
    assert "30003" in caplog.text
    assert "nobody" in caplog.text
    with pytest.raises(petnet.UnknownReceiver) as refused:
        a.send("nobody", "m", b"x", check=True)
    assert refused.value.code == 30003
    assert not refused.value.maybe_accepted
    with pytest.raises(petnet.InvalidRequest):
        a.send("party_b", "i" * 2000, b"x", check=True)


def test_without_a_gateway_nothing_is_ever_said_to_be_sent():
    with petnet.Client("party_a", f"localhost:{free_ports(1)[0]}", patience=0.2) as nobody:
        with pytest.raises(petnet.Unavailable) as unanswered:
            nobody.send("party_b", "m", b"x")
        assert unanswered.value.maybe_accepted
        for call in (nobody.health_check, lambda: nobody.recv("m"), lambda: nobody.recv("m", timeout=0.2)):
            with pytest.raises(ConnectionError):
                call()


def test_calls_outlive_a_restart_of_the_gateway(fresh):
    pair = fresh()
    a, b = pair.client(pair.a), pair.client(pair.b)
    assert a.health_check() == b.health_check() == 1
    sent, received = [], []
    waiting = threading.Thread(target=lambda: received.append(b.recv("m", timeout=60)))
    waiting.start()
    pair.a.kill()
    pair.b.kill()
    sending = threading.Thread(target=lambda: sent.append(a.send("party_b", "m", b"across")))
    sending.start()
    pair.start()
    for thread in (sending, waiting):
        thread.join(60)
    assert (sent, received) == ([True], [b"across"])


def test_one_sender_can_be_asked_for(a, b, name):
    assert a.send("party_b", name, b"x")
    assert b.recv(name, timeout=30, sender="party_a") == b"x"
    with pytest.raises(petnet.NotThere):
        b.recv(name, timeout=0, sender="größer %")


def test_messages_are_released_one_by_one_or_by_topic_and_can_be_tracked(a, b, name):
    for number in range(3):
        assert a.send("party_b", f"{name}:{number}", b"x" * 10)
        b.recv(f"{name}:{number}", timeout=30)
    held = b.track(f"{name}:0")
    assert (held.state, held.sender) == (petnet.State.HELD, "party_a")
    assert a.track(f"{name}:0", "party_b").state in (petnet.State.PENDING, petnet.State.DELIVERED)
    assert b.release(f"{name}:0") == 1
    assert b.release(f"{name}:0") == 0
    assert b.track(f"{name}:0").state is petnet.State.RELEASED
    assert b.release_topic(f"{name}:", sender="party_a") == 2
    assert b.recv(f"{name}:1") == b""
    with pytest.raises(ValueError, match="must not be empty"):
        b.release_topic("")
    assert b.release_all(sender="nobody") == 0


def test_a_payload_that_is_not_compressed_is_an_error_not_other_bytes(shared, a, b, name):
    plain = shared.client(shared.a, compress=False)
    for number, payload in enumerate((b"plain text", b"\xff\xff\xff\xff\x0fx")):
        assert plain.send("party_b", f"{name}:{number}", payload)
        with pytest.raises(petnet.BadPayload, match="not raw snappy"):
            b.recv(f"{name}:{number}", timeout=30)
        assert shared.client(shared.b, compress=False).recv(f"{name}:{number}", timeout=30) == payload
    # Nobody makes room for what six bytes cannot hold.
    with pytest.raises(petnet.BadPayload, match="6 bytes claim to be 4294967295"):
        b.recv(f"{name}:1", timeout=30)


def test_a_method_of_any_stub_can_be_called_as_in_petnet(a):
    from petnet.pb2.health_pb2 import HealthCheckRequest
    from petnet.pb2.health_pb2_grpc import HealthStub

    assert a.call(HealthStub, HealthCheckRequest(service=""), "Check").status == 1
    with pytest.raises(ValueError, match="Chek is not a method"):
        a.call(HealthStub, HealthCheckRequest(), "Chek")
    assert a.channel is a.channel


def test_a_gateway_that_does_not_wait_is_not_asked_in_a_tight_loop():
    """Python PETNet answers at once, whatever it is asked."""
    from concurrent import futures

    import grpc

    from petnet.pb2 import simple_pb2, simple_pb2_grpc

    class AtOnce(simple_pb2_grpc.SimpleRequestServerServicer):
        asked = 0

        def ClientSimpleRecv(self, request, context):
            AtOnce.asked += 1
            return simple_pb2.Response(success=True)

    server = grpc.server(futures.ThreadPoolExecutor(2))
    simple_pb2_grpc.add_SimpleRequestServerServicer_to_server(AtOnce(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with petnet.Client("party_a", f"127.0.0.1:{port}") as client, pytest.raises(petnet.NotThere):
            client.recv("m", timeout=2)
        assert 2 <= AtOnce.asked <= 20
    finally:
        server.stop(0).wait(10)


def test_a_message_that_is_too_large_for_one_call_is_told_as_that(fresh):
    pair = fresh(MAX_MESSAGE_BYTES="1MiB")
    a = pair.client(pair.a, compress=False)
    for size in ((1 << 20) + 1, 3 << 20):
        with pytest.raises(petnet.MessageTooLarge):
            a.send("party_b", "m", bytes(size), check=True)


def test_a_client_that_is_closed_ends_the_calls_that_wait(shared, name):
    client = petnet.Client("party_b", shared.b.address)
    failed = []

    def wait():
        try:
            client.recv(name, timeout=60)
        except petnet.Unavailable as failure:
            failed.append(failure)

    waiting = threading.Thread(target=wait)
    before = waiting_receives(shared.b)
    waiting.start()
    until("the receive waits", lambda: waiting_receives(shared.b) > before)
    client.close()
    waiting.join(30)
    assert failed
