"""docker/compose.yaml: two parties start without Redis, and lose nothing when they are killed."""

import re

import pytest

import compose
import harness

FILE = harness.ROOT / "docker" / "compose.yaml"
# Where PETNet's own compose files mount things, and its port: whoever changes the image only needs these.
PETNETS_PLACES = {"/app/parties/party.json", "/app/certs"}
PETNETS_PORT = "1235"


@pytest.fixture
def stack(stubs, tmp_path):
    made = compose.Stack(stubs, FILE, tmp_path)
    yield made
    made.close()


def test_messages_go_both_ways_and_survive_kills(stack):
    stack.start()
    a, b = stack.gateways["party-a"], stack.gateways["party-b"]
    b.kill()
    a.client().accepted("party_b", "for b", b"accepted while b is gone")
    a.kill()
    b.start()
    b.client().accepted("party_a", "for a", b"accepted while a is gone")
    a.start()
    assert b.client().received("for b") == b"accepted while b is gone"
    assert a.client().received("for a") == b"accepted while a is gone"


def test_what_it_names_is_there(stack):
    stack.check_what_it_names()


def test_each_gateway_keeps_its_data_in_a_volume_of_its_own(stack):
    volumes = {}
    for name, service in stack.services.items():
        assert stack.is_gateway(name), "no Redis, nothing else"
        places = {volume.split(":")[1]: volume.split(":")[0] for volume in service["volumes"]}
        assert places.keys() == PETNETS_PLACES | {"/app/data"}
        assert all(port.endswith(f":{PETNETS_PORT}") for port in service["ports"])
        volumes[name] = places["/app/data"]
    assert set(volumes.values()) == set(stack.file["volumes"]) and len(set(volumes.values())) == len(volumes)


def test_a_stop_has_time_for_the_last_sync(stack):
    for service in stack.services.values():
        assert int(re.fullmatch(r"(\d+)s", service["stop_grace_period"])[1]) > 10 + 30, "SHUTDOWN_GRACE and the last sync"
