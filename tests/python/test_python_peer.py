"""Our gateway beside a Python PETNet peer, which knows only ServerSimpleSend, in both directions."""

import grpc

from harness import until


def test_it_delivers_and_is_delivered_to(beside_python, stubs):
    gateway, peer = beside_python
    peer.start()
    client = gateway.client()
    client.accepted("python_peer", "to python", b"\x00\xff" * 1000)
    assert peer.received("to python") == b"\x00\xff" * 1000

    _, simple = stubs
    with grpc.insecure_channel(gateway.address) as channel:
        deliver = simple.grpc.SimpleRequestServerStub(channel).ServerSimpleSend
        response = deliver(
            simple.pb.ServerSimpleSendRequest(message_id="from python", payload=b"mail"), timeout=10
        )
        assert response.success
        assert client.received("from python") == b"mail"
        # It cannot say which delivery it is, so a second one counts as new: the last write wins.
        deliver(simple.pb.ServerSimpleSendRequest(message_id="from python", payload=b"newer"), timeout=10)
        assert until("the newer one", lambda: client.recv("from python").payload == b"newer")


def test_what_is_accepted_while_it_is_down_is_delivered_when_it_is_up(beside_python):
    gateway, peer = beside_python
    client = gateway.client()
    for n in range(30):
        client.accepted("python_peer", f"early/{n}", b"%d" % n)
    peer.start()
    for n in range(30):
        assert peer.received(f"early/{n}") == b"%d" % n
    peer.stop()
    client.accepted("python_peer", "late", b"late")
    peer.start()
    assert peer.received("late") == b"late"


def test_a_message_it_refuses_for_good_does_not_block_the_next(beside_python):
    gateway, peer = beside_python
    peer.start()
    client = gateway.client()
    client.accepted("python_peer", "above-its-limit", bytes(5 << 20))
    client.accepted("python_peer", "small", b"small")
    client.accepted("python_peer", "just below", bytes((4 << 20) - 64))
    assert peer.received("small") == b"small"
    assert peer.received("just below") == bytes((4 << 20) - 64)

    def told():
        return [line for line in gateway.log().splitlines() if "above-its-limit" in line and "refused" in line]

    until("a log line about the refused message", told)
    assert "above-its-limit" not in peer.messages


def test_pending_messages_are_delivered_after_a_kill_of_the_gateway(beside_python):
    gateway, peer = beside_python
    client = gateway.client()
    for n in range(100):
        client.accepted("python_peer", f"pending/{n}", b"%d" % n * 50)
    gateway.kill()
    peer.start()
    gateway.start()
    for n in range(100):
        assert peer.received(f"pending/{n}") == b"%d" % n * 50


def test_the_order_of_one_id_holds_while_it_is_down(beside_python):
    gateway, peer = beside_python
    client = gateway.client()
    for n in range(20):
        client.accepted("python_peer", "state", b"%d" % n)
    peer.start()
    client.accepted("python_peer", "after", b"")
    until("the last write", lambda: peer.messages.get("state") == b"19")
    peer.received("after")
    assert peer.messages["state"] == b"19"
