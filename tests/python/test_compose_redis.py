"""docker/compose.redis.yaml: what it describes starts, and goes on when one gateway of the two is killed."""

import grpc
import pytest

import compose
import harness
from harness import until

FILE = harness.ROOT / "docker" / "compose.redis.yaml"
# Each client has a connection of its own, so that the balancer has something to spread.
OWN_CONNECTION = ("grpc.use_local_subchannel_pool", 1)
CLIENTS = 6


@pytest.fixture
def stack(stubs, tmp_path):
    made = compose.Stack(stubs, FILE, tmp_path)
    yield made
    made.close()


@pytest.fixture
def clients(stubs):
    """Makes clients of an address."""
    channels = []

    def make(port, count):
        options = [*harness.UNLIMITED, OWN_CONNECTION]
        new = [grpc.insecure_channel(f"127.0.0.1:{port}", options=options) for _ in range(count)]
        channels.extend(new)
        return [harness.Client(stubs[1], channel) for channel in new]

    yield make
    for channel in channels:
        channel.close()


def patiently(call):
    """As old clients do: UNAVAILABLE is asked again."""

    def once():
        try:
            return call()
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNAVAILABLE, error
            return None

    return until("an answer through the address of the party", once, deadline=60)


def send_all(senders, receiver, ids):
    for n, message_id in enumerate(ids):
        patiently(lambda: senders[n % len(senders)].accepted(receiver, message_id, message_id.encode()))


def receive_all(receivers, ids):
    for n, message_id in enumerate(ids):
        received = patiently(lambda: receivers[n % len(receivers)].received(message_id))
        assert received == message_id.encode()


def served_by(stack, clients):
    """How many of the connections of these clients each gateway behind the address has."""
    for client in clients:
        patiently(lambda: client.recv("nothing", wait_ms=0))
    counts = {}
    for name in ("party-a-1", "party-a-2"):
        local = f"0100007F:{stack.port(name):04X}"
        lines = open("/proc/net/tcp").read().splitlines()
        counts[name] = sum(line.split()[1] == local and line.split()[3] == "01" for line in lines)
    return counts


def test_it_goes_on_through_the_same_address_when_a_gateway_is_killed(stack, clients):
    stack.start()
    a, b = clients(stack.port("party-a"), CLIENTS), clients(stack.port("party-b"), 1)
    assert all(count > 0 for count in served_by(stack, a).values()), "both gateways have clients"
    ids = {}

    def exchange(stage):
        ids[stage] = [f"{stage}/{n}" for n in range(30)]
        send_all(a, "party_b", ids[stage])
        send_all(b, "party_a", ids[stage])
        receive_all(b, ids[stage])
        receive_all(a, ids[stage])

    exchange("both")
    # Accepted by one of the two, and not yet known to be delivered, when it dies.
    last = [f"last/{n}" for n in range(CLIENTS)]
    send_all(a, "party_b", last)
    for victim in ("party-a-1", "party-a-2"):
        stack.gateways[victim].kill()
        exchange(f"without {victim}")
        receive_all(b, last)
        # What was there before is still there, whoever is asked.
        receive_all(a, ids["both"])
        stack.gateways[victim].start()
        # The balancer looks once a second, and nothing else says that it knows.
        until(f"{victim} serves again", lambda: served_by(stack, clients(stack.port("party-a"), 2))[victim] > 0)


def test_what_it_names_is_there(stack):
    stack.check_what_it_names()


def test_redis_keeps_what_was_accepted(stack):
    command = stack.services["redis"]["command"]
    given = dict(zip(command[1::2], command[2::2]))
    assert given == {"--appendonly": "yes", "--appendfsync": "always", "--maxmemory-policy": "noeviction"}
    assert any(volume.endswith(":/data") for volume in stack.services["redis"]["volumes"])
