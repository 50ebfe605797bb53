"""The asyncio twin: the same names, and the same behaviour."""

import asyncio
import inspect
import io
import os
import threading

import pytest

import petnet
import petnet.aio
from harness import until, waiting_receives
from petnet._journal import Journal

MIB = 1 << 20


def public(kind):
    return {name: value for name, value in inspect.getmembers(kind) if not name.startswith("_")}


@pytest.mark.parametrize("name", ["Client", "Channel"])
def test_the_twins_have_the_same_names_and_arguments(name):
    blocking, twin = public(getattr(petnet, name)), public(getattr(petnet.aio, name))
    assert blocking.keys() | {"open"} == twin.keys() | {"open"}
    for method in blocking:
        if callable(blocking[method]):
            ours, theirs = (inspect.signature(kind[method]).parameters for kind in (blocking, twin))
            assert list(ours) == list(theirs), method
            assert [one.default for one in ours.values()] == [one.default for one in theirs.values()], method


def run(shared, story, **options):
    """Runs a story with a client of each party."""

    async def told():
        async with (
            petnet.aio.PETNetClient("party_a", shared.a.address, **options) as a,
            petnet.aio.Client("party_b", shared.b.address, **options) as b,
        ):
            await asyncio.wait_for(story(a, b), 90)

    asyncio.run(told())


def test_messages_go_both_ways_and_waits_do_not_hold_the_loop(shared, name):
    async def story(a, b):
        assert await a.health_check() == 1
        assert await a.recv(name) == b""
        waiting = [asyncio.create_task(b.recv(f"{name}:{number}", timeout=60)) for number in range(50)]
        assert all(await asyncio.gather(*(a.send("party_b", f"{name}:{number}", b"%d" % number) for number in range(50))))
        assert await asyncio.gather(*waiting) == [b"%d" % number for number in range(50)]
        with pytest.raises(petnet.NotThere):
            await a.recv(name, timeout=0.05)
        assert await a.send("nobody", name, b"x") is False
        with pytest.raises(petnet.UnknownReceiver):
            await a.send("nobody", name, b"x", check=True)
        assert (await b.track(f"{name}:0")).state is petnet.State.HELD
        assert await b.release(f"{name}:0") == 1
        assert await b.release_topic(f"{name}:") == 49

    run(shared, story)


def test_streams_of_every_source_arrive_whole(shared, name, tmp_path):
    payload = os.urandom(8 * MIB + 1)
    (tmp_path / "big").write_bytes(payload)

    async def chunks():
        for at in range(0, len(payload), 300_000):
            yield payload[at : at + 300_000]

    async def breaks():
        yield b"x" * MIB
        raise RuntimeError("the disk is on fire")

    async def story(a, b):
        for number, source in enumerate((payload, tmp_path / "big", io.BytesIO(payload), chunks())):
            assert await a.send_stream("party_b", f"{name}:{number}", source) > 0
            assert await b.recv_stream(f"{name}:{number}", tmp_path / "received", timeout=30) == len(payload)
            assert (tmp_path / "received").read_bytes() == payload
        with pytest.raises(RuntimeError, match="on fire"):
            await a.send_stream("party_b", name, breaks())
        with pytest.raises(petnet.NotThere):
            await b.recv_stream(name, io.BytesIO(), timeout=0)
        for source in (payload, chunks()):
            with pytest.raises(petnet.UnknownReceiver):
                await a.send_stream("nobody", name, source)
        with pytest.raises(petnet.InvalidRequest):
            await a.send_stream("party_b", name, payload, length=2)

    run(shared, story)


def test_a_channel_keeps_order_and_goes_on_where_it_was(shared, name, tmp_path):
    def ends(a, b):
        return (
            petnet.aio.Channel(name, "party_b", a, state=tmp_path / "a.state"),
            petnet.aio.Channel(name, "party_a", b, state=tmp_path / "b.state"),
        )

    async def story(a, b):
        left, right = ends(a, b)
        async with left, right:
            waiting = asyncio.create_task(right.recv())
            assert await left.send(b"zero") == 0
            assert await waiting == b"zero"
            await left.send(b"one")
            with pytest.raises(RuntimeError):
                async with right.receiving(timeout=30):
                    raise RuntimeError
        # The blocking twin reads the same state.
        with petnet.Client("party_a", shared.a.address) as client:
            with petnet.Channel(name, "party_b", client, state=tmp_path / "a.state") as channel:
                assert channel.send(b"two") == 2
        left, right = ends(a, b)
        async with right:
            async with right.receiving(timeout=30) as payload:
                assert payload == b"one"
            assert await right.recv(timeout=30) == b"two"
            await right.rewind(1)
            assert await right.recv(timeout=0) == b"one"
        await left.close()

    run(shared, story)


def test_a_cancelled_receive_has_received_nothing_and_a_cancelled_send_is_flushed(fresh, tmp_path):
    pair = fresh()

    async def story(a, b):
        async with petnet.aio.Channel("t", "party_b", a, state=tmp_path / "state") as channel:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(channel.recv(), 0.2)
            assert channel.received == 0
            pair.a.kill()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(channel.send(b"zero"), 0.5)
            with pytest.raises(petnet.PendingSend):
                await channel.send(b"other")
            await asyncio.to_thread(pair.a.start)
            await channel.flush()
            assert channel.sent == 1
        assert await b.recv("t:0", timeout=30) == b"zero"

    run(pair, story)


def test_calls_and_streams_outlive_a_restart_of_the_gateway(fresh, tmp_path):
    pair = fresh()
    (tmp_path / "big").write_bytes(os.urandom(32 * MIB))

    class KillsOnce(io.FileIO):
        killed = False

        def read(self, size=-1):
            if self.tell() > 8 * MIB and not self.killed:
                self.killed = True
                pair.a.kill()
                pair.a.start()
            return super().read(size)

    async def story(a, b):
        waiting = asyncio.create_task(b.recv("m", timeout=60))
        with KillsOnce(tmp_path / "big") as source:
            assert await a.send_stream("party_b", "stream", source) > 0
            assert source.killed
        await asyncio.to_thread(pair.b.kill)
        sending = asyncio.create_task(a.send("party_b", "m", b"across"))
        await asyncio.to_thread(pair.b.start)
        assert await sending
        assert await waiting == b"across"
        assert await b.recv_stream("stream", tmp_path / "received", timeout=60) == 32 * MIB

    run(pair, story)
    assert (tmp_path / "received").read_bytes() == (tmp_path / "big").read_bytes()


def test_a_send_that_is_cancelled_while_its_message_is_written_down_is_pending_at_once(shared, name, tmp_path, monkeypatch):
    """Not later, behind the back of the next send, of which the state file could then hold the wrong bytes."""
    writing, write = threading.Event(), threading.Event()
    sending = Journal.sending

    def slowly(journal, payload):
        writing.set()
        assert write.wait(30)
        sending(journal, payload)

    monkeypatch.setattr(Journal, "sending", slowly)

    async def story(a, b):
        async with petnet.aio.Channel(name, "party_b", a, state=tmp_path / "state") as channel:
            first = asyncio.create_task(channel.send(b"first"))
            await asyncio.to_thread(writing.wait, 30)
            first.cancel()
            asyncio.get_running_loop().call_later(0.1, write.set)
            with pytest.raises(asyncio.CancelledError):
                await first
            with pytest.raises(petnet.PendingSend):
                await channel.send(b"second")
            await channel.flush()
            assert channel.sent == 1
            assert await channel.send(b"second") == 1
            assert [await b.recv(f"{name}:{number}", timeout=30) for number in range(2)] == [b"first", b"second"]

    run(shared, story)


def test_a_client_that_is_closed_ends_the_calls_that_wait_and_cancels_nobody(shared, name):
    async def story(a, b):
        other = petnet.aio.Client("party_b", shared.b.address)
        before = waiting_receives(shared.b)
        waiting = asyncio.create_task(other.recv(name, timeout=60))
        await asyncio.to_thread(until, "the receive waits", lambda: waiting_receives(shared.b) > before)
        await other.close()
        with pytest.raises(petnet.Unavailable):
            await asyncio.wait_for(waiting, 30)

    run(shared, story)
