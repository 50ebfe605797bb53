"""What README.md shows runs as it stands there."""

import pathlib
import re
import subprocess
import sys

import pytest

from harness import make_certificates

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.M | re.S)


def run(block, folder, pair):
    """One block, in a folder, with the ports of the gateways in the place of those that the page has."""
    program = block.replace("localhost:1235", pair.a.address).replace("localhost:2235", pair.b.address)
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{program}\n{done.stderr}"
    return done.stdout


def test_there_are_examples():
    assert len(BLOCKS) == 4


def test_messages(shared, tmp_path):
    run(BLOCKS[0], tmp_path, shared)


def test_large_payloads(shared, tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"w" * 3_000_000)
    run(BLOCKS[1], tmp_path, shared)
    assert (tmp_path / "received.bin").read_bytes() == b"w" * 3_000_000


def test_channels(shared, tmp_path):
    assert run(BLOCKS[2], tmp_path, shared).splitlines() == [f"{step} step {step}" for step in range(10)]
    # The same again: everything is done.
    assert run(BLOCKS[2], tmp_path, shared) == ""


@pytest.fixture
def certs(tmp_path):
    return {party: make_certificates(tmp_path / party, party) for party in ("party_a", "party_b")}


def test_tls_and_asyncio(fresh, certs, tmp_path):
    pair = fresh(certs=certs)
    with pair.secure_client(pair.b) as b:
        assert b.send("party_a", "secure answer", b"hello back")
        (tmp_path / "certs").symlink_to(certs["party_a"])
        run(BLOCKS[3], tmp_path, pair)
        assert b.recv("secure", timeout=30) == b"hello"
