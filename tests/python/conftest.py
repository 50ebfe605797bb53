"""Fixtures: stubs generated from protos/, two gateways, a gateway beside a Python PETNet peer."""

import importlib
import sys
import types

import pytest

import harness


def generated(name):
    """The generated modules of one .proto file."""
    return types.SimpleNamespace(
        pb=importlib.import_module(f"petnet.{name}_pb2"),
        grpc=importlib.import_module(f"petnet.{name}_pb2_grpc"),
    )


@pytest.fixture(scope="session")
def stubs(tmp_path_factory):
    """(health, simple), generated anew so that they always match protos/."""
    from grpc_tools import protoc

    folder = tmp_path_factory.mktemp("stubs")
    protos = harness.ROOT / "protos"
    arguments = ["protoc", f"-I{protos}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
    assert protoc.main([*arguments, "petnet/simple.proto", "petnet/health.proto"]) == 0
    sys.path.insert(0, str(folder))
    return generated("health"), generated("simple")


@pytest.fixture
def gateways(stubs, tmp_path):
    """Makes gateways, and ends them with the test."""
    made = []

    def make(party, port, party_file, **settings):
        gateway = harness.Gateway(stubs, tmp_path, party, port, party_file, **settings)
        made.append(gateway)
        return gateway.start()

    yield make
    for gateway in made:
        gateway.close()


@pytest.fixture
def make_pair(gateways, tmp_path):
    """Makes party_a and party_b, both with the settings given."""

    def make(**settings):
        ports = dict(zip(("party_a", "party_b"), harness.free_ports(2)))
        party_file = harness.write_party_file(tmp_path / "party.json", ports)
        return [gateways(party, port, party_file, **settings) for party, port in ports.items()]

    return make


@pytest.fixture
def pair(make_pair):
    """party_a and party_b with the defaults."""
    return make_pair()


@pytest.fixture
def beside_python(stubs, gateways, tmp_path):
    """party_a, a gateway of ours, and python_peer, which is not started yet."""
    ports = dict(zip(("party_a", "python_peer"), harness.free_ports(2)))
    party_file = harness.write_party_file(tmp_path / "party.json", ports)
    peer = harness.PythonPeer(stubs[1], ports["python_peer"])
    yield gateways("party_a", ports["party_a"], party_file), peer
    peer.stop()
