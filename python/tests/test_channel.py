"""Channels: order, and what is left of them after kills."""

import pathlib
import random
import subprocess
import sys
import threading
from concurrent import futures

import grpc
import pytest

import petnet
from harness import until
from petnet import _journal
from petnet._journal import Journal
from petnet.pb2 import simple_pb2, simple_pb2_grpc

PROGRAMS = pathlib.Path(__file__).parent / "programs"


@pytest.fixture
def ends(a, b, name, tmp_path):
    """Opens the two ends of a channel, as often as a test asks."""
    opened = []

    def open_both(**options):
        for end in opened:
            end.close()
        opened[:] = [
            petnet.Channel(name, "party_b", a, state=tmp_path / "a.state", **options),
            petnet.Channel(name, "party_a", b, state=tmp_path / "b.state", **options),
        ]
        return opened

    yield open_both
    for end in opened:
        end.close()


def test_messages_come_in_order_in_both_directions_at_once(ends):
    left, right = ends()

    def talk(end, received):
        receiving = threading.Thread(target=lambda: received.extend(end.recv(timeout=60) for _ in range(30)))
        receiving.start()
        assert [end.send(b"%d" % number) for number in range(30)] == list(range(30))
        receiving.join(60)

    received = [], []
    threads = [threading.Thread(target=talk, args=one) for one in zip((left, right), received)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert received == ([b"%d" % number for number in range(30)],) * 2
    assert left.sent == left.received == right.sent == right.received == 30


def test_it_goes_on_where_it_was(ends):
    left, right = ends()
    left.send(b"zero")
    left.send(b"one")
    assert right.recv(timeout=30) == b"zero"
    left, right = ends()
    assert (left.sent, right.received) == (2, 1)
    assert right.recv(timeout=30) == b"one"
    assert left.send(b"two") == 2
    with pytest.raises(petnet.NotThere):
        left.recv(timeout=0)


def test_a_message_whose_block_fails_comes_again(ends):
    left, right = ends()
    left.send(b"zero")
    with pytest.raises(RuntimeError), right.receiving(timeout=30):
        raise RuntimeError
    with right.receiving(timeout=30) as payload:
        assert payload == b"zero"
    assert right.received == 1
    right.rewind(0)
    assert right.recv(timeout=0) == b"zero"
    with pytest.raises(ValueError, match="go back"):
        right.rewind(2)


def test_what_was_read_is_released_for_those_who_ask(ends, b, name):
    left, right = ends(release=True)
    left.send(b"zero")
    assert right.recv(timeout=30) == b"zero"
    assert b.track(f"{name}:0").state is petnet.State.RELEASED


def test_the_ids_are_those_of_petace(ends, a, b, name):
    left, _ = ends()
    left.send(b"ours")
    assert b.recv(f"{name}:0", timeout=30) == b"ours"
    assert b.send("party_a", f"{name}:0", b"theirs")
    assert left.recv(timeout=30) == b"theirs"


def test_a_refused_message_gives_its_number_back(a, name, tmp_path):
    with petnet.Channel(name, "nobody", a, state=tmp_path / "state") as channel, pytest.raises(petnet.UnknownReceiver):
        channel.send(b"x")
    with petnet.Channel(name, "nobody", a, state=tmp_path / "state") as channel:
        assert channel.sent == 0


def test_a_message_without_an_answer_is_sent_by_flush_or_by_the_next_program_and_by_nothing_else(fresh, tmp_path):
    pair = fresh()
    a, b = pair.client(pair.a, patience=0.2), pair.client(pair.b)
    with petnet.Channel("t", "party_b", a, state=tmp_path / "state") as channel:
        pair.a.kill()
        with pytest.raises(petnet.Unavailable):
            channel.send(b"zero")
        with pytest.raises(petnet.PendingSend):
            channel.send(b"zero")
        pair.a.start()
        a.patience = 30
        channel.flush()
        assert channel.sent == 1
        pair.a.kill()
        a.patience = 0.2
        with pytest.raises(petnet.Unavailable):
            channel.send(b"one")
    pair.a.start()
    a.patience = 30
    with petnet.Channel("t", "party_b", a, state=tmp_path / "state") as channel:
        assert channel.sent == 2
    assert [b.recv(f"t:{number}", timeout=30) for number in range(2)] == [b"zero", b"one"]


def test_a_channel_is_open_once_and_its_state_is_of_one_channel(ends, a, name, tmp_path):
    ends()
    with pytest.raises(petnet.StateError, match="has this channel open"):
        petnet.Channel(name, "party_b", a, state=tmp_path / "a.state")
    ends()[0].close()
    with pytest.raises(petnet.StateError, match="not of"):
        petnet.Channel("another topic", "party_b", a, state=tmp_path / "a.state")


def test_without_a_state_file_named_there_is_one_for_each_channel(a, tmp_path, monkeypatch):
    monkeypatch.setenv("PETNET_STATE", str(tmp_path / "states"))
    for peer in ("party_a", "party_b"):
        petnet.Channel("../job/7", peer, a).close()
    names = {path.name for path in (tmp_path / "states").iterdir() if path.suffix != ".lock"}
    assert names == {"..%2Fjob%2F7@party_a", "..%2Fjob%2F7@party_b"}


def journal_of(path):
    journal = Journal(path, "t", "p")
    journal.close()
    return journal.sent, journal.received, journal.pending


def test_a_state_file_cut_anywhere_is_one_of_the_states_it_had(tmp_path):
    path = tmp_path / "state"
    journal = Journal(path, "t", "p")
    states = [(0, 0, None)]
    for step in (
        lambda: journal.sending(b"zero"),
        journal.accepted,
        lambda: journal.count_received(1),
        lambda: journal.sending(b"one"),
        journal.withdrawn,
        lambda: journal.sending(b"another"),
    ):
        step()
        states.append((journal.sent, journal.received, journal.pending))
    journal.close()
    content = path.read_bytes()
    seen = []
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        found = journal_of(path)
        if not seen or seen[-1] != found:
            seen.append(found)
    assert seen == states


def test_a_changed_byte_of_a_state_file_is_found_or_in_what_was_written_last(tmp_path):
    path = tmp_path / "state"
    journal = Journal(path, "t", "p")
    journal.sending(b"zero")
    journal.accepted()
    before = len(path.read_bytes())
    journal.count_received(1)
    journal.close()
    content = path.read_bytes()
    for at in range(before):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :])
        with pytest.raises(petnet.StateError, match=r"damaged at byte|is the state of"):
            journal_of(path)


def test_a_state_file_does_not_grow_without_end(tmp_path):
    path = tmp_path / "state"
    journal = Journal(path, "t", "p")
    for _ in range(5):
        journal.sending(b"x" * 900_000)
        journal.accepted()
    journal.count_received(7)
    journal.sending(b"last")
    journal.close()
    assert path.stat().st_size < 1_000_000
    assert journal_of(path) == (5, 7, b"last")


def test_programs_and_gateways_killed_again_and_again_each_message_is_read_once_in_order_and_in_one_version(fresh, tmp_path):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    pair = fresh()
    count, kills = 250, 10
    output = tmp_path / "read"
    output.touch()
    sender = [PROGRAMS / "sender.py", pair.a.address, tmp_path / "a.state", str(count)]
    reader = [PROGRAMS / "reader.py", pair.b.address, tmp_path / "b.state", str(count), output]
    running = {}

    def start(which):
        running[which] = subprocess.Popen([sys.executable, *which], stdout=subprocess.PIPE, text=True)
        assert running[which].stdout.readline().startswith("begins at")

    def lines():
        return output.read_text().count("\n")

    commands = {"sender": tuple(sender), "reader": tuple(reader)}
    try:
        for command in commands.values():
            start(command)
        for _ in range(kills):
            goal = min(lines() + chance.randrange(1, count // kills), count)
            until("more is read", lambda goal=goal: lines() >= goal)
            victim = chance.choice([*commands.values(), pair.a, pair.b])
            if victim in running:
                running[victim].kill()
                running[victim].wait(10)
                start(victim)
            else:
                victim.kill()
                victim.start()
        for process in running.values():
            assert process.wait(60) == 0
    finally:
        for process in running.values():
            process.kill()
            process.wait(10)
            process.stdout.close()
    read = output.read_text().split("\n")[:-1]
    assert [int(line.split()[0]) for line in read] == list(range(count))
    # What the gateway holds under each id is what was read.
    b = pair.client(pair.b)
    assert [b.recv(f"numbers:{number}", timeout=30).decode() for number in range(count)] == read


def test_an_answer_that_leaves_open_whether_a_message_was_accepted_does_not_give_its_number_away(tmp_path):
    """PETNet's 30001 says that something went wrong in the gateway, not before or after what."""
    server = grpc.server(futures.ThreadPoolExecutor(2))

    class Fails(simple_pb2_grpc.SimpleRequestServerServicer):
        def ClientSimpleSend(self, request, context):
            return simple_pb2.Response(success=False, error_code=30001, error_msg="it broke")

    simple_pb2_grpc.add_SimpleRequestServerServicer_to_server(Fails(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with petnet.Client("party_a", f"127.0.0.1:{port}") as client:
            state = tmp_path / "state"
            channel = petnet.Channel("t", "party_b", client, state=state)
            with pytest.raises(petnet.Refused, match="it broke"):
                channel.send(b"zero")
            with pytest.raises(petnet.PendingSend):
                channel.send(b"zero")
            channel.close()
    finally:
        server.stop(0).wait(10)


def test_a_message_that_can_never_be_accepted_does_not_close_the_channel_for_ever(fresh, tmp_path):
    """A program dies while the gateway looks at a message that is too large for it."""
    pair = fresh(MAX_MESSAGE_BYTES="1MiB")
    a = pair.client(pair.a, compress=False)
    journal = Journal(tmp_path / "state", "t", "party_b")
    journal.sending(bytes(2 << 20))
    journal.close()
    with pytest.raises(petnet.MessageTooLarge):
        petnet.Channel("t", "party_b", a, state=tmp_path / "state")
    with petnet.Channel("t", "party_b", a, state=tmp_path / "state") as channel:
        assert channel.send(b"smaller") == 0
    assert pair.client(pair.b, compress=False).recv("t:0", timeout=30) == b"smaller"


def test_a_message_that_was_accepted_counts_as_sent_though_it_would_be_refused_now(fresh, tmp_path):
    pair = fresh()
    a = pair.client(pair.a, compress=False)
    # What was delivered is not known any more after a restart; this one waits.
    pair.b.kill()
    assert a.send("party_b", "t:0", bytes(2 << 20))
    journal = Journal(tmp_path / "state", "t", "party_b")
    journal.sending(bytes(2 << 20))
    journal.close()
    pair.a.kill()
    pair.a.settings["MAX_MESSAGE_BYTES"] = "1MiB"
    pair.a.start()
    with petnet.Channel("t", "party_b", a, state=tmp_path / "state") as channel:
        assert channel.sent == 1


def test_a_state_file_that_cannot_be_opened_is_a_state_error(a, name, tmp_path):
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", "/dev/zero", "/proc/nowhere/state", tmp_path / ("x" * 300)):
        with pytest.raises(petnet.StateError, match="cannot open"):
            petnet.Channel(name, "party_b", a, state=path)


def test_a_topic_of_any_length_has_a_state_file_of_its_own(a, name, tmp_path, monkeypatch):
    monkeypatch.setenv("PETNET_STATE", str(tmp_path))
    topics = [f"{name}{'x' * 900}{end}" for end in "ab"]
    for number, topic in enumerate(topics):
        with petnet.Channel(topic, "party_b", a) as channel:
            assert channel.sent == 0
            for _ in range(number + 1):
                channel.send(b"x")
    for number, topic in enumerate(topics):
        with petnet.Channel(topic, "party_b", a) as channel:
            assert channel.sent == number + 1


def test_a_new_state_file_is_durable_with_its_folders_and_for_its_user_only(a, name, tmp_path, monkeypatch):
    synced = set()
    monkeypatch.setattr(_journal, "sync_folder", lambda folder: synced.add(folder))
    monkeypatch.setattr(_journal, "_LONG", 1000)
    path = tmp_path / "new" / "newer" / "state"
    with petnet.Channel(name, "party_b", a, state=path) as channel:
        assert {path.parent, *list(path.parents)[1:3]} <= synced
        before = path.stat().st_ino
        channel.send(bytes(1000))
        assert path.stat().st_ino != before, "it was written anew"
    # It holds the message that is on its way.
    for made in (path, path.parent, path.parent.parent):
        assert made.stat().st_mode & 0o077 == 0, made
