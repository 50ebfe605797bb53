"""Payloads of any size."""

import hashlib
import io
import os
import threading

import pytest

import petnet

MIB = 1 << 20


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def big(tmp_path):
    """64 MiB that no part of repeats."""
    path = tmp_path / "big"
    with open(path, "wb") as file:
        for _ in range(64):
            file.write(os.urandom(MIB))
    return path


def test_a_large_file_goes_through_with_a_progress_bar(a, b, name, big, tmp_path, capfd):
    assert a.send_stream("party_b", name, big, progress=True) > 0
    target = tmp_path / "received"
    target.write_bytes(b"what was there before")
    assert b.recv_stream(name, target, timeout=60, progress=True) == 64 * MIB
    assert digest(target) == digest(big)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big", "received"]
    shown = capfd.readouterr().err
    assert shown.count("100%") >= 2
    assert "64.0M/64.0M" in shown


@pytest.mark.parametrize("length", [0, 1, (1 << 18) - 1, 1 << 18, (1 << 18) + 1])
def test_bytes_files_and_iterables_of_every_length_arrive_whole(a, b, name, length):
    payload = os.urandom(length)
    file = io.BytesIO(b"skipped" + payload)
    file.seek(len(b"skipped"))
    chunks = (payload[at : at + 1000] for at in range(0, length, 1000))
    for number, source in enumerate((payload, file, chunks)):
        a.send_stream("party_b", f"{name}:{number}", source)
        received = io.BytesIO()
        assert b.recv_stream(f"{name}:{number}", received, timeout=30) == length
        assert received.getvalue() == payload


def test_an_error_of_the_source_is_raised_and_half_a_message_is_not_accepted(a, b, name):
    def breaks():
        yield b"x" * MIB
        raise RuntimeError("the disk is on fire")

    with pytest.raises(RuntimeError, match="on fire"):
        a.send_stream("party_b", name, breaks())
    with pytest.raises(petnet.NotThere):
        b.recv_stream(name, io.BytesIO(), timeout=0)


def test_refusals_and_wrong_lengths_are_errors(a, name):
    with pytest.raises(petnet.UnknownReceiver):
        a.send_stream("nobody", name, b"x")
    with pytest.raises(petnet.InvalidRequest):
        a.send_stream("party_b", name, b"x", length=2)


def test_a_file_is_left_alone_when_the_message_does_not_come(b, name, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"before")
    with pytest.raises(petnet.NotThere):
        b.recv_stream(name, target, timeout=0.1)
    assert target.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_is_sent_or_received_while_its_gateway_is_killed_arrives_whole(fresh, big, tmp_path, monkeypatch):
    pair = fresh()
    a, b = pair.client(pair.a), pair.client(pair.b)
    moving = threading.Event()

    class Watched(io.FileIO):
        def read(self, size=-1):
            if self.tell() > 16 * MIB:
                moving.set()
            return super().read(size)

    done = []
    with Watched(big) as source:
        sending = threading.Thread(target=lambda: done.append(a.send_stream("party_b", "m", source)))
        sending.start()
        assert moving.wait(60)
        pair.a.kill()
        pair.a.start()
        sending.join(60)
    assert len(done) == 1
    target = tmp_path / "received"

    write, killed = petnet.stream.Sink.write, []

    def kills_once(sink, piece):
        if sink.written > 16 * MIB and not killed:
            killed.append(pair.b.kill())
            pair.b.start()
        write(sink, piece)

    monkeypatch.setattr(petnet.stream.Sink, "write", kills_once)
    assert b.recv_stream("m", target, timeout=60) == 64 * MIB
    assert killed
    assert digest(target) == digest(big)


def test_an_iterable_cannot_be_sent_twice_and_says_so(fresh):
    pair = fresh()
    a = pair.client(pair.a)

    def killing():
        yield b"x" * 4 * MIB
        pair.a.kill()
        while True:
            yield b"x" * MIB

    with pytest.raises(petnet.Unavailable):
        a.send_stream("party_b", "m", killing())
