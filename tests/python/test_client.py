"""PETNet's own Python client against two gateways: the rules that old programs rely on."""

import signal
import threading
import time

import grpc
import pytest
import snappy

from harness import until


def test_a_message_travels_and_reading_does_not_remove_it(pair):
    a, b = (gateway.client() for gateway in pair)
    a.accepted("party_b", "greeting", b"hello")
    for _ in range(3):
        assert b.received("greeting") == b"hello"
    b.accepted("party_a", "greeting", b"hello yourself")
    assert a.received("greeting") == b"hello yourself"


def test_payloads_are_opaque(pair):
    a, b = (gateway.client() for gateway in pair)
    payload = snappy.compress(bytes(range(256)) * 400)
    a.accepted("party_b", "compressed", payload)
    received = b.received("compressed")
    assert received == payload
    assert snappy.decompress(received) == bytes(range(256)) * 400


def test_not_there_yet_is_not_the_same_as_empty(pair):
    a, b = (gateway.client() for gateway in pair)
    nothing = b.recv("empty", wait_ms=0)
    assert nothing.success and not nothing.HasField("payload") and not nothing.HasField("error_code")
    a.accepted("party_b", "empty", b"")
    there = until("the empty message", lambda: (r := b.recv("empty")).HasField("payload") and r)
    assert there.success and there.payload == b""


def test_the_last_write_wins(pair):
    a, b = (gateway.client() for gateway in pair)
    for n in range(20):
        a.accepted("party_b", "state", str(n).encode())
    until("the last write", lambda: b.recv("state").payload == b"19")
    assert b.recv("state").payload == b"19"


@pytest.mark.parametrize("receiver", ["nobody", "party_a"])
def test_an_unknown_receiver_and_oneself_are_refused(pair, receiver):
    response = pair[0].client().send(receiver, "m", b"x")
    assert not response.success
    assert response.error_code == 30003
    assert receiver in response.error_msg
    assert not response.HasField("payload")


@pytest.mark.parametrize("message_id", ["", "x" * 1025])
def test_an_id_that_cannot_be_one_is_refused(pair, message_id):
    a = pair[0].client()
    response = a.send("party_b", message_id, b"x")
    assert (response.success, response.error_code) == (False, 20002), response
    response = a.recv(message_id)
    assert (response.success, response.error_code) == (False, 20002), response


def test_malformed_requests_get_an_error_and_harm_nobody(pair):
    a, b = (gateway.client() for gateway in pair)
    for method in ("ClientSimpleSend", "ClientSimpleRecv", "ServerSimpleSend"):
        call = a.channel.unary_unary(f"/petnet.simple.v1.SimpleRequestServer/{method}")
        with pytest.raises(grpc.RpcError) as error:
            call(b"\x0a\xff\xff\xff\xff\x0f", timeout=10)
        assert error.value.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    a.accepted("party_b", "after", b"fine")
    assert b.received("after") == b"fine"


def test_a_large_message_arrives_whole(pair):
    a, b = (gateway.client() for gateway in pair)
    payload = bytes(1 << 20).join(bytes([n]) for n in range(65))
    a.accepted("party_b", "large", payload)
    assert b.received("large", deadline=90) == payload


def test_a_message_above_the_limit_is_refused_and_the_next_one_is_not(make_pair):
    a, b = (gateway.client() for gateway in make_pair(MAX_MESSAGE_BYTES="1MiB"))
    try:
        response = a.send("party_b", "too large", bytes(2 << 20))
        assert (response.success, response.error_code) == (False, 30006), response
    except grpc.RpcError as error:
        # The transport may refuse it before it is read; an old client must not take that for passing.
        assert error.code() in (grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.RESOURCE_EXHAUSTED), error
    a.accepted("party_b", "small", bytes(1 << 19))
    assert b.received("small") == bytes(1 << 19)


def test_a_waiting_receive_is_answered_when_the_message_arrives(pair):
    a, b = (gateway.client() for gateway in pair)
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(b.recv("soon", wait_ms=60_000)))
    waiting.start()
    # The receive must be waiting at the gateway before the message comes; nothing tells that from outside.
    time.sleep(0.3)
    assert not answers
    started = time.monotonic()
    a.accepted("party_b", "soon", b"here")
    waiting.join(30)
    assert answers and answers[0].payload == b"here"
    assert time.monotonic() - started < 20


def test_the_wait_is_a_second_or_what_the_metadata_says(pair):
    a = pair[0].client()
    # (metadata, at least, at most); the upper bounds leave room for a busy machine.
    for wait_ms, least, most in ((None, 0.9, 10), (0, 0, 0.9), (2500, 2.4, 15)):
        started = time.monotonic()
        response = a.recv("never", wait_ms=wait_ms)
        took = time.monotonic() - started
        assert response.success and not response.HasField("payload")
        assert least <= took < most, (wait_ms, took)


def test_a_receive_is_answered_before_the_calls_own_deadline(pair):
    a = pair[0].client()
    for wait_ms in (None, 60_000):
        response = a.recv("never", wait_ms=wait_ms, timeout=0.8)
        assert response.success and not response.HasField("payload")


@pytest.mark.parametrize("package", ["petnet", "grpc"])
def test_health_is_served_under_both_names(pair, stubs, package):
    health, _ = stubs
    channel = pair[0].client().channel
    check = channel.unary_unary(
        f"/{package}.health.v1.Health/Check",
        request_serializer=health.pb.HealthCheckRequest.SerializeToString,
        response_deserializer=health.pb.HealthCheckResponse.FromString,
    )
    assert check(health.pb.HealthCheckRequest(), timeout=5).status == health.pb.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as error:
        check(health.pb.HealthCheckRequest(service="no.such.Service"), timeout=5)
    assert error.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("package", ["petnet", "grpc"])
def test_watching_health_shows_the_shutdown(pair, stubs, package):
    health, _ = stubs
    watch = pair[0].client().channel.unary_stream(
        f"/{package}.health.v1.Health/Watch",
        request_serializer=health.pb.HealthCheckRequest.SerializeToString,
        response_deserializer=health.pb.HealthCheckResponse.FromString,
    )
    statuses = watch(health.pb.HealthCheckRequest(), timeout=60)
    assert next(statuses).status == health.pb.HealthCheckResponse.SERVING
    pair[0].process.send_signal(signal.SIGTERM)
    assert next(statuses).status == health.pb.HealthCheckResponse.NOT_SERVING
    statuses.cancel()
    assert pair[0].process.wait(30) == 0, pair[0].log()


def test_accepted_messages_survive_a_kill_of_either_gateway(pair):
    gateway_a, gateway_b = pair
    a = gateway_a.client()
    gateway_b.kill()
    for n in range(50):
        a.accepted("party_b", f"kept/{n}", b"%d" % n * 100)
    gateway_a.kill()
    gateway_a.start()
    gateway_b.start()
    b = gateway_b.client()
    for n in range(50):
        assert b.received(f"kept/{n}") == b"%d" % n * 100
    gateway_b.kill()
    gateway_b.start()
    for n in range(50):
        assert gateway_b.client().received(f"kept/{n}") == b"%d" % n * 100
