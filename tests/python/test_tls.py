"""grpcio clients and a Python PETNet peer over TLS."""

import grpc
import pytest

import harness
from harness import free_ports, make_certificates, write_party_file

ACCESS_DENIED = 30004


@pytest.fixture
def certs(tmp_path):
    return {party: make_certificates(tmp_path / "certs" / party, party) for party in ("party_a", "party_b", "python_peer")}


@pytest.fixture
def two(gateways, tmp_path, certs):
    """party_a and party_b, each with its certificates."""
    ports = dict(zip(("party_a", "party_b"), free_ports(2)))
    party_file = write_party_file(tmp_path / "party.json", ports, certs)
    return [gateways(party, port, party_file, certs=certs[party]) for party, port in ports.items()]


def test_programs_of_both_parties_exchange_messages(two):
    a, b = two
    a.client().accepted("party_b", "there", b"x" * 100_000)
    assert b.client().received("there") == b"x" * 100_000
    b.client().accepted("party_a", "back", b"")
    assert a.client().received("back") == b""


def test_a_program_of_another_party_reads_and_sends_nothing(two, certs):
    a, b = two
    a.client().accepted("party_b", "secret", b"x")
    b.client().received("secret")
    stranger = b.client(certs["party_a"], root=certs["party_b"] / "ca.crt")
    for response in (stranger.recv("secret"), stranger.send("party_a", "m", b"x")):
        assert not response.success and response.error_code == ACCESS_DENIED, response
        assert "may not use the mailbox" in response.error_msg


def test_without_a_certificate_there_is_no_call(two, certs):
    _, b = two
    for client in (b.client(root=certs["party_b"] / "ca.crt"), harness.Client(b.stubs[1], grpc.insecure_channel(b.address))):
        with pytest.raises(grpc.RpcError) as refused:
            client.recv("m", wait_ms=0, timeout=10)
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        client.channel.close()


def test_a_python_peer_without_a_certificate_delivers_and_is_delivered_to_and_no_more(gateways, stubs, tmp_path, certs):
    _, simple = stubs
    ports = dict(zip(("party_a", "python_peer"), free_ports(2)))
    party_file = write_party_file(tmp_path / "party.json", ports, certs)
    gateway = gateways("party_a", ports["party_a"], party_file, certs=certs["party_a"], TLS_CLIENT_AUTH="optional")
    peer = harness.PythonPeer(simple, ports["python_peer"], certs["python_peer"]).start()
    try:
        gateway.client().accepted("python_peer", "to python", b"mail")
        assert peer.received("to python") == b"mail"
        unnamed = gateway.client(root=certs["party_a"] / "ca.crt")
        delivery = simple.pb.ServerSimpleSendRequest(message_id="from python", payload=b"mail")
        assert unnamed.stub.ServerSimpleSend(delivery, timeout=10).success
        # It cannot claim to be somebody.
        claimed = [("petnet-sender", "python_peer")]
        assert unnamed.stub.ServerSimpleSend(delivery, timeout=10, metadata=claimed).success
        assert gateway.client().received("from python") == b"mail"
        only = [("petnet-sender", "python_peer"), ("petnet-wait-ms", "0")]
        request = simple.pb.ClientSimpleRecvRequest(message_id="from python")
        assert not gateway.client().stub.ClientSimpleRecv(request, timeout=10, metadata=only).HasField("payload")
        response = unnamed.recv("from python")
        assert not response.success and response.error_code == ACCESS_DENIED, response
    finally:
        peer.stop()
