"""Programs written for PETNet: its messages, its client, the example of its README."""

import pathlib
import shutil
import socket
import subprocess
import sys

import pytest
import snappy

import petnet
from conftest import ROOT, STUBS
from harness import Gateway, free_ports, write_party_file

# What PETNet's README shows, call for call.
EXAMPLE = """
import grpc

from pb2.simple_pb2 import ClientSimpleRecvRequest, ClientSimpleSendRequest
from pb2.simple_pb2_grpc import SimpleRequestServerStub

channel = grpc.insecure_channel("localhost:1235")
stub = SimpleRequestServerStub(channel)
request = ClientSimpleSendRequest(receiver_id="your_target_receiver", message_id="your_message_id", payload=b"hello!")
print(f"Send success: {stub.ClientSimpleSend(request).success}")
answer = stub.ClientSimpleRecv(ClientSimpleRecvRequest(message_id="your_message_id"))
print(f"Received payload: {answer.payload}")
"""


@pytest.fixture(scope="module")
def pb2_folder(tmp_path_factory):
    """A folder with a pb2 package as PETNet ships one: made by protoc, names in the pool of the whole process."""
    folder = tmp_path_factory.mktemp("programs")
    (folder / "pb2").mkdir()
    for name in ("simple", "health"):
        shutil.copy(ROOT / "protos" / "petnet" / f"{name}.proto", folder / "pb2")
    out = [f"-I{folder}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
    files = [f"pb2/{name}.proto" for name in ("simple", "health")]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *out, *files], check=True, timeout=60)
    return folder


def port_of_the_example():
    """1235; another one where that is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 1235))
        except OSError:
            return free_ports(1)[0]
    return 1235


def test_the_example_of_petnets_readme_runs_unchanged(pb2_folder, tmp_path):
    ports = {"your_party": port_of_the_example(), "your_target_receiver": free_ports(1)[0]}
    party_file = write_party_file(tmp_path / "party.json", ports)
    ours, other = (Gateway(STUBS, tmp_path, party, port, party_file) for party, port in ports.items())
    program = pb2_folder / "example.py"
    program.write_text(EXAMPLE.replace("localhost:1235", f"localhost:{ports['your_party']}"))
    try:
        ours.start()
        other.start()
        with petnet.Client("your_target_receiver", other.address, compress=False) as peer:
            assert peer.send("your_party", "your_message_id", b"hello back!")
            with petnet.Client("your_party", ours.address, compress=False) as arrived:
                arrived.recv("your_message_id", timeout=30)
            shown = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True, timeout=60)
            assert shown.stdout == "Send success: True\nReceived payload: b'hello back!'\n"
            assert peer.recv("your_message_id", timeout=30) == b"hello!"
    finally:
        ours.close()
        other.close()


def test_petnets_client_and_ours_read_each_other_and_their_modules_live_in_one_process(pb2_folder, a, b, name, monkeypatch):
    monkeypatch.syspath_prepend(str(pb2_folder))
    # The second of two files with the same names, in the pool of the process, would be refused.
    from pb2 import simple_pb2, simple_pb2_grpc

    theirs = simple_pb2_grpc.SimpleRequestServerStub(a.channel)
    payload = bytes(range(256)) * 1000
    sent = theirs.ClientSimpleSend(
        simple_pb2.ClientSimpleSendRequest(receiver_id="party_b", message_id=name, payload=snappy.compress(payload))
    )
    assert sent.success
    assert b.recv(name, timeout=30) == payload
    back = name + "/back"
    assert b.send("party_a", back, payload)
    assert a.recv(back, timeout=30) == payload
    answer = theirs.ClientSimpleRecv(simple_pb2.ClientSimpleRecvRequest(message_id=back))
    assert snappy.decompress(answer.payload) == payload
    # Their messages go through our stubs, too.
    ours = petnet.pb2.simple_pb2_grpc.SimpleRequestServerStub(a.channel)
    assert ours.ClientSimpleRecv(simple_pb2.ClientSimpleRecvRequest(message_id=back)).payload == answer.payload


def test_a_polling_loop_written_for_petnets_client_ends_when_the_message_is_there(a, b, name):
    assert a.send("party_b", name, b"polled for")
    payload = b""
    for _ in range(60):
        payload = b.recv(name)
        if payload:
            break
    assert payload == b"polled for"


def test_the_package_has_every_public_name_of_petnets_client():
    for method in ("call", "channel", "close", "health_check", "recv", "send", "__enter__", "__exit__"):
        assert hasattr(petnet.PETNetClient, method), method
    assert pathlib.Path(petnet.__file__).with_name("py.typed").exists()
