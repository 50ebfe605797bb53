"""Runs a computation between parties on this machine, each with its gateway, kills one gateway in the middle of it, starts
it again, and holds the results against those of the same computation in the clear.

two    two_parties.py: two parties, Paillier
three  salaries.py: three parties, MPyC

Needs the gateway's program: PETNET_BIN, or petnet in the PATH.

usage: demo.py two|three
"""

import json
import os
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading

import petnet

HERE = pathlib.Path(__file__).resolve().parent
BINARY = os.environ.get("PETNET_BIN") or shutil.which("petnet")
#: Seconds after which a gateway must serve, and the whole must be done.
START, DONE = 30, 100


def free_ports(count):
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


class Gateway:
    """The gateway of one party. It ends with this program."""

    process = None

    def __init__(self, folder, party, port):
        self.folder, self.party, self.address = folder, party, f"127.0.0.1:{port}"

    def start(self):
        settings = {
            "PARTY": self.party,
            "LISTEN_ADDR": self.address,
            "HTTP_LISTEN_ADDR": "off",
            "CONFIG_FILE_PATH": str(self.folder / "party.json"),
            "DATA_DIR": str(self.folder / self.party),
            "PEM_PATH": str(self.folder / "no-certificates"),
            "RETRY_CAP": "1s",
        }
        command = [BINARY, "serve", "--stop-with-stdin"]
        with open(self.folder / f"{self.party}.log", "ab") as log:
            self.process = subprocess.Popen(command, env={**os.environ, **settings}, stdin=subprocess.PIPE, stderr=log)
        # Answers as soon as it serves.
        with petnet.Client(self.party, self.address, patience=START) as client:
            client.recv("anything")

    def kill(self):
        self.process.kill()
        self.process.wait()


def two():
    """Arguments of each party's program, and the results."""
    flags = [random.randrange(2) for _ in range(20)]
    amounts = [random.randrange(10_000) for _ in flags]
    programs = [["two_parties.py", "seen", joined(flags)], ["two_parties.py", "spent", joined(amounts)]]
    return programs, [f"spent by those who saw it: {sum(flag * amount for flag, amount in zip(flags, amounts))}"]


def three():
    salaries = [[random.randrange(1500, 9000) for _ in range(4)] for _ in range(3)]
    common = ["salaries.py", "-M3", "--no-log", "--topic", "salaries", "--parties", "party_a,party_b,party_c"]
    programs = [[*common, f"-I{index}", "--salaries", joined(own)] for index, own in enumerate(salaries)]
    everybodys = [one for own in salaries for one in own]
    counts = [f"at least {threshold}: {sum(one >= threshold for one in everybodys)}" for threshold in range(2000, 8000, 500)]
    return programs, [*counts, f"mean: {sum(everybodys) / len(everybodys):.2f}"]


def joined(numbers):
    return ",".join(map(str, numbers))


def start(folder, gateway, program):
    state = folder / f"state-of-{gateway.party}"
    environment = {**os.environ, "PETNET_ADDR": gateway.address}
    command = [sys.executable, HERE / program[0], *program[1:], "--state", state]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def run(folder, gateways, programs):
    """The lines that each party's program printed. The last gateway is killed after the third line of the first one."""
    for gateway in gateways:
        gateway.start()
    parties = [start(folder, *one) for one in zip(gateways, programs)]
    alarm = threading.Timer(DONE, lambda: [party.kill() for party in parties])
    alarm.start()
    try:
        first = [show(parties[0].stdout.readline()) for _ in range(3)]
        gateways[-1].kill()
        print(f"*** killed the gateway of {gateways[-1].party}", flush=True)
        gateways[-1].start()
        print("*** started it again", flush=True)
        first += [show(line) for line in parties[0].stdout]
        return [first, *(party.communicate()[0].splitlines() for party in parties[1:])]
    finally:
        alarm.cancel()
        for party in parties:
            party.kill()
            party.wait()


def show(line):
    print(line, end="", flush=True)
    return line.rstrip("\n")


def main():
    if not BINARY:
        sys.exit("demo.py: no gateway program: set PETNET_BIN, or put petnet into the PATH")
    programs, expected = {"two": two, "three": three}[sys.argv[1]]()
    names = ["party_a", "party_b", "party_c"][: len(programs)]
    with tempfile.TemporaryDirectory(prefix="petnet-mpc-") as name:
        folder = pathlib.Path(name)
        gateways = [Gateway(folder, *one) for one in zip(names, free_ports(len(names)))]
        entries = {one.party: {"petnet": [{"type": 1, "url": one.address}]} for one in gateways}
        (folder / "party.json").write_text(json.dumps(entries))
        try:
            printed = run(folder, gateways, programs)
        finally:
            for gateway in gateways:
                if gateway.process is not None:
                    gateway.kill()
    right = all([line for line in lines if not line.startswith("batch")] == expected for lines in printed)
    print("*** every party has the right results" if right else f"*** WRONG: expected {expected}, got {printed}")
    return 0 if right else 1


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in ("two", "three"):
        sys.exit(__doc__)
    sys.exit(main())
