"""A client that behaves like the C++ NetAgent of PETAce, which cannot be changed any more.

It polls in a tight loop without a pause for up to 90 s, gives every call 30 s, throws on success=false, retries only
UNAVAILABLE and DEADLINE_EXCEEDED, and counts its ids from 0 in both directions.
"""

import threading
import time
from collections import Counter

import grpc

ROUNDS = 500
RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class Agent:
    def __init__(self, client, peer):
        self.client = client
        self.peer = peer
        self.sent = Counter()
        self.read = Counter()
        self.polls = 0

    @staticmethod
    def call(request):
        for attempt in range(5):
            try:
                response = request()
            except grpc.RpcError as error:
                if error.code() not in RETRIED or attempt == 4:
                    raise
                continue
            if not response.success:
                raise RuntimeError(f"{response.error_code}: {response.error_msg}")
            return response
        raise AssertionError("unreachable")

    def send(self, topic, payload):
        message_id = f"{topic}:{self.sent[topic]}"
        self.sent[topic] += 1
        self.call(lambda: self.client.send(self.peer, message_id, payload, timeout=30))

    def recv(self, topic):
        message_id = f"{topic}:{self.read[topic]}"
        self.read[topic] += 1
        end = time.monotonic() + 90
        while time.monotonic() < end:
            self.polls += 1
            response = self.call(lambda: self.client.recv(message_id, timeout=30))
            if response.HasField("payload"):
                return response.payload
        raise TimeoutError(f"no {message_id}")


def both(*parts):
    """Runs the two sides of a protocol; the error of either fails the test."""
    errors = []

    def guarded(part):
        try:
            part()
        except BaseException as error:  # noqa: BLE001 - reported below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(170)
        assert not thread.is_alive(), "a side of the protocol hangs"
    if errors:
        raise errors[0]


def test_500_rounds_of_ping_pong(pair):
    a = Agent(pair[0].client(), "party_b")
    b = Agent(pair[1].client(), "party_a")

    def ping():
        for n in range(ROUNDS):
            a.send("share", b"ping %d" % n)
            assert a.recv("share") == b"pong %d" % n

    def pong():
        for n in range(ROUNDS):
            assert b.recv("share") == b"ping %d" % n
            b.send("share", b"pong %d" % n)

    started = time.monotonic()
    both(ping, pong)
    took = time.monotonic() - started
    print(f"{ROUNDS} rounds in {took:.2f} s, {took / ROUNDS * 1000:.2f} ms each, {a.polls + b.polls} polls")


def test_ping_pong_goes_on_across_a_crash_of_the_other_gateway(pair):
    """The agent survives a gateway that comes back, as UNAVAILABLE is what it retries."""
    a = Agent(pair[0].client(), "party_b")
    b = Agent(pair[1].client(), "party_a")
    for n in range(20):
        a.send("share", b"ping %d" % n)
        assert b.recv("share") == b"ping %d" % n
        b.send("share", b"pong %d" % n)
        if n == 10:
            pair[1].kill()
            pair[1].start()
            b.client = pair[1].client()
        assert a.recv("share") == b"pong %d" % n
