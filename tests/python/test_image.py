"""The image of docker/Dockerfile: with an engine it is built and started; without one its steps are carried out here."""

import json
import os
import re
import shutil
import subprocess

import pytest

import harness
import image
from harness import until

DOCKERFILE = harness.ROOT / "docker" / "Dockerfile"
PARTY_FILE = harness.ROOT / "docker" / "parties" / "party.json"
PETNET = "/usr/local/bin/petnet"


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    reason = image.why_not()
    if reason and "CI" not in os.environ:
        pytest.skip(f"THE IMAGE IS NOT TESTED: {reason}")
    assert not reason, reason
    return image.Image(DOCKERFILE, tmp_path_factory.mktemp("image"))


@pytest.fixture
def containers(built, tmp_path):
    network, made = image.Network(), []

    def make(party, certs=None, party_file=PARTY_FILE, **environment):
        mounts = {"/app/parties/party.json": party_file} | ({"/app/certs": certs} if certs else {})
        made.append(image.Container(built, network, tmp_path / party, {"PARTY": party, **environment}, mounts))
        return made[-1]

    yield make
    for container in made:
        container.close()
    network.close()


def send(container, to, message_id, payload):
    sent = container.execute([PETNET, "send", "--to", to, "--id", message_id], input=payload)
    assert sent.returncode == 0, sent.stderr


def received(container, message_id):
    got = container.execute([PETNET, "recv", "--gateway", "127.0.0.1:2235", "--id", message_id])
    assert got.returncode == 0, got.stderr
    return got.stdout


def test_what_was_accepted_survives_a_kill_in_the_volume(containers):
    # What PETNet's compose files give: the party, and the party file at its place. Everything else is a default.
    a = containers("party_a").start()
    send(a, "party_b", "early", b"accepted while the peer is absent")
    a.kill()
    a.start()
    assert "1 pending" in a.log(), a.log()
    b = containers("party_b", LISTEN_ADDR="[::]:2235", HTTP_LISTEN_ADDR="127.0.0.1:2236").start()
    assert received(b, "early") == b"accepted while the peer is absent"
    b.kill()
    b.start()
    assert received(b, "early") == b"accepted while the peer is absent"
    b.kill()
    verified = b.execute([PETNET, "verify", "/app/data"])
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_the_health_check_tells_when_it_is_gone_and_finds_the_gateway_by_its_own_settings(containers, built):
    a = containers("party_a").start()
    assert a.execute([PETNET, "health", "--gateway", "localhost:1235"]).returncode == 0, "names resolve"
    assert built.port == 1235
    a.kill()
    assert a.execute(built.health).returncode == 1


def test_the_health_check_works_with_tls_and_what_is_in_the_container(containers, tmp_path):
    certs = {}
    for party in ("party_a", "party_b"):
        certs[party] = harness.make_certificates(tmp_path / f"certs-{party}", party)
    # As the page says: readable for the user of the image. Programs' and authority's files need not be there.
    for name in ("ca.key", "client.key", "client.crt"):
        (certs["party_a"] / name).unlink()
    for path in (certs["party_a"], *certs["party_a"].iterdir()):
        os.chown(path, 10001, 10001)
    roots = {party: (folder / "ca.crt").read_text() for party, folder in certs.items()}
    party_file = harness.write_party_file(tmp_path / "party.json", {"party_a": 1235, "party_b": 2235})
    parties = json.loads(party_file.read_text())
    for party, root in roots.items():
        parties[party]["petnet"][0]["certificates"] = root
    party_file.write_text(json.dumps(parties))
    # Under prod it serves by TLS only.
    containers("party_a", certs["party_a"], party_file, ENV="prod").start()


def test_it_runs_as_a_user_without_rights_who_may_write_its_data_only(containers, built):
    user = int(built.user.split(":")[0])
    assert user != 0 and built.volumes == ["/app/data"]
    a = containers("party_a").start()
    status = dict(line.split(":\t", 1) for line in open(f"/proc/{a.process.pid}/status").read().splitlines() if ":\t" in line)
    assert set(status["Uid"].split()) == {str(user)} and int(status["CapEff"], 16) == 0, status
    owned = [path for path in built.root.rglob("*") if path.lstat().st_uid == user]
    assert built.root / "app/data" in owned and built.root / "usr/local/bin/petnet" not in owned


def test_the_first_stage_has_the_toolchain_that_the_workspace_needs():
    toolchain = re.search(r'^rust-version = "([\d.]+)"', (harness.ROOT / "Cargo.toml").read_text(), re.M)[1]
    assert image.steps(DOCKERFILE)[0][0][1].startswith(f"rust:{toolchain}-")


@pytest.mark.skipif(not shutil.which("buildah") and "CI" not in os.environ, reason="no buildah here; scripts/test installs it where it can")
def test_buildah_makes_of_the_first_stages_files_an_image_that_starts(built, tmp_path):
    """The second stage as it is in the file; the first one cannot be had without a registry, and its files are those above."""
    text = DOCKERFILE.read_text()
    shutil.copytree(built.files, tmp_path / "image")
    first = "FROM scratch AS build\nCOPY image /image\n"
    (tmp_path / "Dockerfile").write_text(first + text[text.index("FROM scratch"):])
    storage = ["--root", tmp_path / "storage", "--runroot", tmp_path / "run", "--storage-driver", "vfs"]
    network, server = image.Network(), None

    def buildah(*words):
        ran = subprocess.run(network.inside(command(*words)), capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, f"{words}:\n{ran.stdout}{ran.stderr}"
        return ran.stdout.strip()

    def command(*words):
        return ["buildah", *map(str, storage), *map(str, words)]

    try:
        buildah("build", "--isolation", "chroot", "--format", "docker", "-t", "petnet", tmp_path)
        config = json.loads(buildah("inspect", "--type", "image", "petnet"))["Docker"]["config"]
        assert (config["User"], list(config["Volumes"])) == (built.user, built.volumes)
        assert (config["Entrypoint"], config["Cmd"]) == (built.entrypoint, built.command)
        assert config["Healthcheck"]["Test"] == ["CMD", *built.health]
        container = buildah("from", "petnet")
        run = ["run", "--isolation", "chroot", "--env", "PARTY=party_a", "-v", f"{PARTY_FILE}:/app/parties/party.json:ro", container]
        serve = [*run, "--", *built.entrypoint, *built.command]
        with open(tmp_path / "log", "wb") as log:
            # What buildah starts ends with the process space that it is in.
            alone = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *command(*serve)]
            server = subprocess.Popen(network.inside(alone), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        # buildah takes a second for each start: one call waits instead of many.
        buildah(*run, "--", *built.health, "--wait", "30s")
        buildah(*run, "--", PETNET, "send", "--to", "party_b", "--id", "x", "/app/parties/party.json")
    finally:
        if server:
            server.kill()
            server.wait(10)
        network.close()


def engine():
    for name in ("docker", "podman"):
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True).returncode == 0:
            return name
    return None


# A build of everything with optimisation.
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not engine(), reason="no engine answers here; the tests above carry out the image's steps instead")
def test_an_engine_builds_it_and_it_is_healthy_again_after_a_kill(tmp_path):
    name, tag = engine(), "petnet-test-of-the-image"

    def run(*words):
        ran = subprocess.run([name, *words], capture_output=True, text=True)
        assert ran.returncode == 0, f"{words}:\n{ran.stdout}{ran.stderr}"
        return ran.stdout.strip()

    # Podman keeps health checks in its own format of images only.
    run("build", *(["--format", "docker"] if name == "podman" else []), "-f", str(DOCKERFILE), "-t", tag, str(harness.ROOT))
    shutil.copy(PARTY_FILE, tmp_path / "party.json")
    mount = f"{tmp_path / 'party.json'}:/app/parties/party.json:ro"
    container = run("run", "-d", "--read-only", "--tmpfs", "/tmp", "-e", "PARTY=party_a", "-v", mount, tag)
    try:
        health = lambda: subprocess.run([name, "exec", container, PETNET, "health"], capture_output=True).returncode == 0
        until("healthy", health, 60)
        run("exec", container, PETNET, "send", "--to", "party_b", "--id", "x", "/app/parties/party.json")
        run("kill", "-s", "KILL", container)
        run("start", container)
        until("healthy again", health, 60)
        logs = subprocess.run([name, "logs", container], capture_output=True, text=True)
        assert "1 pending" in logs.stdout + logs.stderr
    finally:
        subprocess.run([name, "rm", "-f", "-v", container], capture_output=True)
