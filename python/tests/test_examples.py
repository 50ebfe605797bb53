"""Real computations through gateways, of which one is killed in the middle."""

import pathlib
import subprocess
import sys

import pytest

from harness import binary

DEMO = pathlib.Path(__file__).resolve().parents[1] / "examples" / "mpc" / "demo.py"


@pytest.mark.parametrize("parties", ["two", "three"])
def test_a_computation_survives_the_kill_of_a_gateway(parties, monkeypatch):
    monkeypatch.setenv("PETNET_BIN", str(binary()))
    done = subprocess.run([sys.executable, DEMO, parties], capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    killed = next(at for at, line in enumerate(lines) if "killed the gateway" in line)
    restarted = lines.index("*** started it again")
    assert 0 < killed < restarted < len(lines) - 2
    assert lines[-1] == "*** every party has the right results"
