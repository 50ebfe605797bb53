"""Fixtures: real gateways, from the harness of tests/python, and clients of this package."""

import itertools
import pathlib
import sys
import types

import pytest

import petnet
import petnet.pb2.health_pb2_grpc
import petnet.pb2.simple_pb2_grpc
from petnet import pb2

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "python"))

import harness  # noqa: E402

STUBS = tuple(
    types.SimpleNamespace(pb=getattr(pb2, f"{name}_pb2"), grpc=getattr(pb2, f"{name}_pb2_grpc"))
    for name in ("health", "simple")
)


class Pair:
    """party_a and party_b, and clients of both that end with them."""

    def __init__(self, folder, certs=None, **settings):
        self.ports = dict(zip(("party_a", "party_b"), harness.free_ports(2)))
        party_file = harness.write_party_file(folder / "party.json", self.ports, certs)
        self.gateways = [
            harness.Gateway(STUBS, folder, party, port, party_file, certs=certs and certs[party], **settings)
            for party, port in self.ports.items()
        ]
        self.a, self.b = self.gateways
        self.clients = []

    def client(self, gateway, **options):
        self.clients.append(petnet.Client(gateway.party, gateway.address, **options))
        return self.clients[-1]

    def secure_client(self, gateway):
        """With the certificates of its party."""
        self.clients.append(petnet.Client.from_folder(gateway.party, gateway.certs, gateway.address))
        return self.clients[-1]

    def start(self):
        for gateway in self.gateways:
            gateway.start()
        return self

    def close(self):
        for client in self.clients:
            client.close()
        for gateway in self.gateways:
            gateway.close()


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A pair for tests that only send and receive under ids of their own."""
    pair = Pair(tmp_path_factory.mktemp("shared"))
    yield pair.start()
    pair.close()


@pytest.fixture
def fresh(tmp_path):
    """A pair for tests that kill, or that need settings of their own."""
    made = []

    def make(**settings):
        made.append(Pair(tmp_path, **settings))
        return made[-1].start()

    yield make
    for pair in made:
        pair.close()


@pytest.fixture
def a(shared):
    return shared.client(shared.a)


@pytest.fixture
def b(shared):
    return shared.client(shared.b)


_NUMBERS = itertools.count()


@pytest.fixture
def name(request):
    """An id, or a topic, of this test only."""
    return f"{request.node.name}/{next(_NUMBERS)}"
