"""The commands that README.md and docs/ show are run as they stand there, with this machine's paths and ports in them."""

import json
import os
import re
import subprocess

import pytest

import harness

DOCS = harness.ROOT / "docs"


def blocks(page, heading):
    """The shell blocks below a heading, up to the next one of its level."""
    text = page.read_text()
    level, begin = re.search(rf"^(#+) {re.escape(heading)}\n", text, re.M)[1], text.index(f" {heading}\n")
    end = re.search(rf"^#{{1,{len(level)}}} ", text[begin:], re.M)
    found = re.findall(r"^```sh\n(.*?)^```", text[begin : begin + end.start() if end else None], re.M | re.S)
    assert found, f"{page.name} has no commands under {heading!r}"
    return found


def adapted(text, places):
    for shown, ours in places.items():
        text = text.replace(shown, str(ours))
    return text


class Shell:
    """Runs commands in a folder, with `petnet` in the PATH and without need of another user."""

    def __init__(self, folder):
        self.folder = folder
        programs = folder / "programs"
        programs.mkdir()
        (programs / "petnet").symlink_to(harness.binary())
        (programs / "sudo").write_text('#!/bin/sh\nexec "$@"\n')
        (programs / "sudo").chmod(0o755)
        self.environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}

    def run(self, script, codes=(0,), **environment):
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", script], cwd=self.folder, capture_output=True, text=True, timeout=60,
            stdin=subprocess.DEVNULL, env={**self.environment, **environment},
        )
        assert done.returncode in codes, f"{script}\nended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
def shell(tmp_path):
    return Shell(tmp_path)


def test_sending_by_hand_as_the_readme_shows_it(shell, tmp_path):
    (block,) = blocks(harness.ROOT / "README.md", "Sending by hand")
    ports = harness.free_ports(4)
    harness.write_party_file(tmp_path / "party.json", {"party_a": ports[0], "party_b": ports[2]})
    # Built it is already.
    script = re.sub(r"^(cargo|export PATH).*\n", "", block, flags=re.M)
    shown = ["127.0.0.1:1235", "127.0.0.1:1236", "127.0.0.1:2235", "127.0.0.1:2236"]
    places = {**dict(zip(shown, (f"127.0.0.1:{port}" for port in ports))), "/tmp/petnet": tmp_path / "petnet"}
    places["docker/parties/party.json"] = tmp_path / "party.json"
    started = re.sub(r" &$", " 2>>log &", adapted(script, places), flags=re.M)
    sent = started.index("echo hello")
    asked = "".join(f"petnet health --gateway {places[address]} --wait 30s\n" for address in (shown[0], shown[2]))
    ended = "trap 'kill $(jobs -p); wait' EXIT\n"
    assert "hello\n" in shell.run(ended + started[:sent] + asked + started[sent:])


def test_looking_inside(shell, make_pair):
    a, b = make_pair()
    b.kill()
    for number in (7, 8):
        a.client().accepted("party_b", f"model/{number}", b"waits")
    for heading in ("What waits, and acting on it", "How is it?", "Where is my message?", "Dead letters", "The mailbox"):
        for block in blocks(DOCS / "operations.md", heading):
            for line in block.splitlines():
                if "--watch" in line:
                    continue
                # 5: there is nothing by that name, and 1 where it would ask; 2 would be a command that is none.
                yes = " --yes" if re.search(r" (drop|release) ", line) and "--yes" not in line else ""
                shell.run(line + yes, codes=(0, 1, 5), DATA_DIR=a.settings["DATA_DIR"])
    # The page drops what waits, pauses the peer and resumes it.
    said = json.loads(shell.run("petnet status --json", DATA_DIR=a.settings["DATA_DIR"]))
    assert (said["peers"][0]["pending"], said["peers"][0]["state"] != "paused") == (0, True)


def test_certificates(shell, tmp_path):
    places = {"/etc/petnet/certs": tmp_path / "certs"}
    made, served = (adapted(block, places) for block in blocks(DOCS / "security.md", "From nothing to mutual TLS"))
    shell.run(made)
    assert "petnet serve" in served
    later = re.findall(r"^```sh\n(petnet certs (?:init .*--renew|show .*)\n)```", (DOCS / "security.md").read_text(), re.M)
    assert len(later) == 2
    for block in later:
        shell.run(adapted(block, places))


def test_manual_pages_and_completions(shell, tmp_path):
    block = blocks(DOCS / "installing.md", "The binary")[-1]
    shell.run(adapted(block, {"/etc/bash_completion.d": tmp_path}))
    assert (tmp_path / "man1" / "petnet-serve.1").exists() and (tmp_path / "petnet").stat().st_size


class Backup:
    """What backup.md says, done to a gateway whose folder is where the page has it."""

    def __init__(self, shell, gateway):
        self.shell, self.gateway = shell, gateway

    def follow(self, heading):
        for block in blocks(DOCS / "backup.md", heading):
            for line in adapted(block, {"/var/lib": self.shell.folder / "lib"}).splitlines():
                if line == "sudo systemctl stop petnet":
                    assert self.gateway.terminate() == 0
                elif line == "sudo systemctl start petnet":
                    self.gateway.start()
                else:
                    self.shell.run(line)


def of_peer(shell, gateway):
    return json.loads(shell.run("petnet status --json", DATA_DIR=gateway.settings["DATA_DIR"]))["peers"][0]


def test_a_backup_is_restored_and_nothing_is_doubled(shell, make_pair, tmp_path):
    (tmp_path / "lib").mkdir()
    a, b = make_pair()
    a.terminate()
    a.settings["DATA_DIR"] = str(tmp_path / "lib" / "petnet")
    a.start()
    backup = Backup(shell, a)
    b.kill()
    for name in ("read", "replaced"):
        a.client().accepted("party_b", name, b"before the backup")
    backup.follow("Making one")
    a.client().accepted("party_b", "later", b"after the backup")

    # The disk is lost, and b had nothing of it yet.
    backup.follow("Restoring")
    assert of_peer(shell, a)["pending"] == 2
    b.start()
    assert b.client().received("read") == b.client().received("replaced") == b"before the backup"
    assert not b.client().recv("later", wait_ms=0).HasField("payload"), "what came after the backup is not in it"
    a.client().accepted("party_b", "replaced", b"newer")
    harness.until("it is there", lambda: b.client().received("replaced") == b"newer")
    shell.run("petnet mailbox release read --yes", DATA_DIR=b.settings["DATA_DIR"])

    # Once more from the same backup, which holds as pending what was delivered, read and replaced meanwhile.
    shell.run("rm -r lib/petnet.old")
    backup.follow("Restoring")
    harness.until("everything is delivered", lambda: of_peer(shell, a)["pending"] == 0)
    assert not b.client().recv("read", wait_ms=0).HasField("payload")
    assert b.client().received("replaced") == b"newer"
    # New messages count, under ids that were used before, too.
    a.client().accepted("party_b", "replaced", b"newest")
    harness.until("it is there", lambda: b.client().received("replaced") == b"newest")
