"""The Debian package, installed, upgraded, removed and purged by dpkg on a machine with systemd; and its unit at work."""

import os
import pathlib
import re
import shutil
import subprocess

import pytest

import harness
import image
import machine

NEEDED = ("dpkg", "dpkg-deb", "adduser", "systemd-analyze", "strace", "nsenter")
UNIT = "/usr/lib/systemd/system/petnet.service"
# Exposure as systemd counts it, times ten.
MAX_EXPOSURE = 13
B = {"PARTY": "party_b", "LISTEN_ADDR": "127.0.0.1:2235", "HTTP_LISTEN_ADDR": "127.0.0.1:2236", "DATA_DIR": "/var/lib/petnet-b",
     "CONFIG_FILE_PATH": "/etc/petnet/party.json"}


@pytest.fixture(scope="session")
def package(tmp_path_factory):
    """The package, as packaging/build-deb makes it; PETNET_DEB names one that is there."""
    missing = [name for name in NEEDED if not shutil.which(name)]
    reason = machine.why_not() or (f"{missing} are missing; scripts/test installs them" if missing else None)
    if reason and "CI" not in os.environ:
        pytest.skip(f"THE DEBIAN PACKAGE IS NOT TESTED: {reason}")
    assert not reason, reason
    if "PETNET_DEB" in os.environ:
        return pathlib.Path(os.environ["PETNET_DEB"]).resolve()
    made = tmp_path_factory.mktemp("deb") / "petnet.deb"
    built = subprocess.run([harness.ROOT / "packaging" / "build-deb", "--output", made], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return made


@pytest.fixture(scope="session")
def next_package(package, tmp_path_factory):
    """The same program as a later version, with other settings to begin with."""
    folder = tmp_path_factory.mktemp("next")
    image.run_checked(["dpkg-deb", "-R", package, folder / "files"])
    control = folder / "files/DEBIAN/control"
    text, count = re.subn(r"^Version: .*$", "Version: 99.0-1", control.read_text(), flags=re.M)
    assert count == 1
    control.write_text(text)
    with open(folder / "files/etc/petnet/petnet.env", "a") as settings:
        settings.write("\n# New in this version.\n#NOTHING=\n")
    image.run_checked(["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", folder / "files", folder / "next.deb"])
    return folder / "next.deb"


@pytest.fixture
def debian(package, tmp_path):
    made = machine.Machine(tmp_path)
    try:
        assert not made.there("/usr/bin/petnet"), "this machine has the package: remove it first"
        yield made
    finally:
        made.close()


def set_party(debian):
    """What the page asks the operator to do."""
    file = debian.path("/etc/petnet/petnet.env")
    text = file.read_text()
    assert text.count("\nPARTY=\n") == 1
    file.write_text(text.replace("\nPARTY=\n", "\nPARTY=party_a\n"))


def start(debian):
    set_party(debian)
    debian.run("systemctl", "enable", "--now", "petnet")
    debian.run("petnet", "health", "--wait", "30s")


def send(debian, message_id, text):
    debian.run("sh", "-c", f"echo {text} | petnet send --to party_b --id {message_id}")


def owner(debian, path):
    return debian.run("stat", "-c", "%U:%G %a", path).strip()


def test_an_upgrade_restarts_it_and_loses_no_message_and_no_setting(debian, package, next_package):
    said = debian.install(package)
    assert "set PARTY" in said
    # Until it has a party it cannot start.
    assert debian.property("ActiveState") == "inactive" and debian.property("UnitFileState") == "disabled"
    assert owner(debian, "/var/lib/petnet") == owner(debian, "/etc/petnet/certs") == "petnet:petnet 750"
    # It may hold the password of a Redis.
    assert owner(debian, "/etc/petnet/petnet.env") == "root:root 640"
    start(debian)
    send(debian, "one", "accepted before the upgrade")
    before = debian.property("MainPID")

    said = debian.install(next_package, "--force-confdef", "--force-confold")
    assert "set PARTY" not in said
    assert debian.run("dpkg-query", "-W", "-f", "${Version}", "petnet") == "99.0-1"
    assert debian.property("MainPID") != before, "it runs the new program"
    debian.run("petnet", "health", "--wait", "30s")
    assert "PARTY=party_a" in debian.path("/etc/petnet/petnet.env").read_text()
    assert debian.property("UnitFileState") == "enabled"
    assert "everything that was accepted is kept" in debian.log() and "1 pending" in debian.log()

    settings = [f"--setenv={name}={value}" for name, value in B.items()]
    debian.run("systemd-run", "-q", "--unit=b", "-p", "User=petnet", "-p", "StateDirectory=petnet-b", *settings, "petnet", "serve")
    debian.run("petnet", "health", "--gateway", "127.0.0.1:2235", "--wait", "30s")
    received = debian.run("petnet", "recv", "--gateway", "127.0.0.1:2235", "--id", "one")
    assert "accepted before the upgrade" in received


def test_a_removal_keeps_settings_and_messages_and_a_purge_keeps_messages(debian, package):
    debian.install(package)
    start(debian)
    send(debian, "one", "accepted before the removal")
    listed = debian.run("dpkg", "-L", "petnet").split()
    files = [path for path in listed if not debian.path(path).is_dir()]
    for path in ("/usr/bin/petnet", "/usr/share/man/man1/petnet-serve.1.gz", "/usr/share/doc/petnet/copyright",
                 "/usr/share/doc/petnet/changelog.gz", "/usr/share/bash-completion/completions/petnet",
                 "/usr/share/zsh/vendor-completions/_petnet", "/usr/share/fish/vendor_completions.d/petnet.fish"):
        assert path in files, path

    debian.run("dpkg", "-r", "petnet")
    assert debian.run("pgrep", "-x", "petnet", code=1) == "", "it is stopped"
    assert "everything that was accepted is kept" in debian.log()
    kept = [path for path in files if debian.there(path)]
    assert sorted(kept) == ["/etc/petnet/party.json", "/etc/petnet/petnet.env"]
    debian.install(package)
    debian.run("systemctl", "start", "petnet")
    debian.run("petnet", "health", "--wait", "30s")
    assert "1 pending" in debian.log()

    debian.path("/etc/petnet/certs/ca.key").write_text("a key")
    said = debian.run("dpkg", "--purge", "petnet")
    assert "/var/lib/petnet is kept" in said and "rm -r /var/lib/petnet" in said and "/etc/petnet/certs is kept" in said
    assert not any(debian.there(path) for path in files)
    assert debian.there("/etc/petnet/certs/ca.key")
    # Whoever installs it again finds the message.
    debian.install(package)
    start(debian)
    assert debian.log().count("1 pending") == 2


def named_petnet(debian):
    return set(debian.run("find", "/etc", "/usr", "/lib", "/var/lib", "-xdev", "-name", "*petnet*").split())


def test_the_unit_is_valid_and_shut_in_and_a_purge_of_what_never_ran_leaves_nothing(debian, package):
    before = named_petnet(debian)
    debian.install(package)
    said = debian.run("systemd-analyze", "verify", UNIT)
    assert "petnet" not in said, said
    debian.run("systemd-analyze", "security", "--offline=true", f"--threshold={MAX_EXPOSURE}", "--no-pager", UNIT)
    grace_and_last_sync = 10 + 30
    assert debian.property("TimeoutStopUSec") == "1min 30s" and 90 > grace_and_last_sync
    said = debian.run("dpkg", "--purge", "petnet")
    assert "kept" not in said
    assert named_petnet(debian) - before == set()


def test_it_starts_again_after_a_kill_and_not_with_wrong_settings(debian, package):
    debian.install(package)
    start(debian)
    send(debian, "one", "accepted before the kill")
    before = debian.property("MainPID")
    debian.run("systemctl", "kill", "-s", "KILL", "petnet")
    harness.until("it runs again", lambda: debian.property("MainPID") not in (before, "0"))
    debian.run("petnet", "health", "--wait", "30s")
    assert "1 pending" in debian.log()
    debian.run("systemctl", "reload", "petnet")
    harness.until("it looked again", lambda: "party file and certificates are those in force" in debian.log())

    file = debian.path("/etc/petnet/petnet.env")
    file.write_text(file.read_text().replace("PARTY=party_a", "PARTY=nobody"))
    # The start may be called done before the settings are read.
    subprocess.run(debian.inside(["systemctl", "restart", "petnet"]), capture_output=True)
    harness.until("it gave up", lambda: debian.property("ActiveState") == "failed")
    assert debian.property("ExecMainStatus") == "2" and debian.property("NRestarts") in ("0", "1")


def test_with_certificates_made_as_its_user_it_is_healthy_by_tls(debian, package):
    debian.install(package)
    as_petnet = ["runuser", "-u", "petnet", "--"]
    folder = "/etc/petnet/certs"
    debian.run(*as_petnet, "petnet", "certs", "init", "--party", "party_a", "--dns", "gateway.a.example", "--out", folder)
    party_file = debian.path("/etc/petnet/party.json")
    text = party_file.read_text()
    assert text.count('"certificates": ""') == 2
    party_file.write_text(text.replace('"certificates": ""', f'"certificates": "{folder}/ca.crt"'))
    with open(debian.path("/etc/petnet/petnet.env"), "a") as settings:
        settings.write("ENV=prod\n")
    set_party(debian)
    debian.run("systemctl", "start", "petnet")
    debian.run(*as_petnet, "petnet", "health", "--pem-path", folder, "--wait", "30s")


def test_the_drop_in_that_the_page_shows_lets_it_use_another_disk_a_low_port_and_log_files(debian, package):
    debian.install(package)
    set_party(debian)
    (drop_in,) = re.findall(r"^```ini\n(.*?)^```", (harness.ROOT / "docs/installing.md").read_text(), re.M | re.S)
    settings = re.findall(r"[A-Z_]+=\S+(?= in petnet\.env)|LISTEN_ADDR=\S+443", drop_in)
    assert [setting.split("=")[0] for setting in settings] == ["DATA_DIR", "LOGGING_DIR", "LISTEN_ADDR"]
    with open(debian.path("/etc/petnet/petnet.env"), "a") as file:
        file.write("".join(f"{setting.rstrip('.')}\n" for setting in settings))
    debian.run("install", "-d", "-o", "petnet", "-g", "petnet", "/mnt/large/petnet")
    debian.path("/etc/systemd/system/petnet.service.d").mkdir()
    debian.path("/etc/systemd/system/petnet.service.d/override.conf").write_text(drop_in)
    debian.run("systemctl", "start", "petnet")
    debian.run("petnet", "health", "--gateway", "127.0.0.1:443", "--wait", "30s")
    debian.run("petnet", "status", "--data-dir", "/mnt/large/petnet")
    assert "serves on" in debian.path("/var/log/petnet/petnet.log").read_text()
    assert owner(debian, "/mnt/large/petnet/FORMAT") == "petnet:petnet 600"


def filtered(unit):
    """The system calls that the unit lets through."""
    listed = subprocess.run(["systemd-analyze", "syscall-filter", "--no-pager"], capture_output=True, text=True, check=True)
    sets, current = {}, None
    for line in listed.stdout.splitlines():
        word = line.strip()
        if line.startswith("@"):
            current = sets.setdefault(word, set())
        elif word and not word.startswith("#") and current is not None:
            current.add(word)

    def expand(name):
        return set().union(*map(expand, sets[name])) if name.startswith("@") else {name}

    allowed = expand("@default")
    for line in re.findall(r"^SystemCallFilter=(.*)$", unit, re.M):
        named = set().union(*map(expand, line.lstrip("~").split()))
        allowed = allowed - named if line.startswith("~") else allowed | named
    return allowed


def test_the_unit_allows_the_system_calls_of_a_gateway(debian, package):
    debian.install(package)
    calls = "/var/lib/petnet/calls"
    drop_in = debian.path("/etc/systemd/system/petnet.service.d/trace.conf")
    drop_in.parent.mkdir()
    # Tracing is what the filter is there against.
    traced = f"ExecStart=/usr/bin/strace -f -qq -o {calls} /usr/bin/petnet serve"
    drop_in.write_text(f"[Service]\nSystemCallFilter=\nExecStart=\n{traced}\n")
    start(debian)
    debian.run("sh", "-c", "head -c 3000000 /dev/urandom | petnet send --to party_b --id large")
    send(debian, "small", "text")
    debian.run("pkill", "-HUP", "-x", "petnet")
    harness.until("it looked again", lambda: "party file and certificates are those in force" in debian.log())
    debian.run("systemctl", "stop", "petnet")
    made = set(re.findall(r"^\d+ +(\w+)\(", debian.path(calls).read_text(), re.M))
    assert {"fdatasync", "accept4", "openat", "setpriority"} <= made
    assert made - filtered(debian.path(UNIT).read_text()) == set()
