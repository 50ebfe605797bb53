"""The image of docker/Dockerfile without an engine: its stages are carried out on folders, and it runs by chroot.

Of the first stage everything runs in an overlay of this machine's root but two things: what apt-get installs is here, and a
stand-in for cargo hands out the program that the tests have, since a static one takes as long as everything else together
(PETNET_STATIC_BIN names one). A program that is not static brings the libraries that it names.

It runs as a container does: the image's user and command, nothing but the image's files, all of them read-only but the
volume and /tmp, and a network of its own.
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import harness

# What the engine gives to every container.
HOSTS = "127.0.0.1 localhost\n::1 localhost\n"
NETWORK = """
import fcntl, socket, struct, sys
with socket.socket() as asked:
    fcntl.ioctl(asked, 0x8914, struct.pack("16sh14x", b"lo", 1 | 64))  # SIOCSIFFLAGS: up and running
print("up", flush=True)
sys.stdin.read()
"""
STAND_IN = """#!/bin/sh
# cargo, as far as the Dockerfile needs it.
set -e
[ "$1" = build ] && [ "$RUSTFLAGS" = "-C target-feature=+crt-static" ] && [ "$CARGO_PROFILE_RELEASE_STRIP" = debuginfo ]
while [ "$1" != --target ]; do shift; done
mkdir -p "target/$2/release"
cp /program "target/$2/release/petnet"
"""


def program():
    return pathlib.Path(os.environ.get("PETNET_STATIC_BIN", harness.binary()))


def why_not():
    """Why nothing of this can run here, if so."""
    if os.geteuid() != 0:
        return "mount, chroot and another user need root"
    tried = subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True, text=True)
    return tried.stderr if tried.returncode else None


def steps(dockerfile):
    """Stages, each a list of (instruction, arguments)."""
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.M).replace("\\\n", " ")
    stages = []
    for line in filter(None, map(str.strip, text.splitlines())):
        word, rest = line.split(None, 1)
        if word == "FROM":
            stages.append([])
        stages[-1].append((word, rest))
    return stages


class Image:
    """The image, as a root folder and what its instructions say."""

    def __init__(self, dockerfile, folder):
        build, final = steps(dockerfile)
        self.root = folder / "image"
        self.root.mkdir()
        self.user, self.volumes, self.health, self.command = None, [], None, []
        assert final[0] == ("FROM", "scratch"), "another base needs another test"
        made = self.build(build, folder)
        self.files = made / "image"
        self.add_libraries(self.files / "root")
        for word, rest in final[1:]:
            getattr(self, f"do_{word.lower()}")(rest, made)
        (self.root / "etc/hosts").write_text(HOSTS)
        for name in ("dev", "proc"):
            (self.root / name).mkdir()

    def build(self, stage, folder):
        """Runs the first stage; gives the folder in which its files are."""
        for name in ("upper", "work", "merged"):
            (folder / name).mkdir()
        upper = folder / "upper"
        (upper / "src").mkdir()
        run_checked(["strip", "--strip-debug", "-o", upper / "program", program()])
        (upper / "usr/local/bin").mkdir(parents=True)
        (upper / "usr/local/bin/cargo").write_text(STAND_IN)
        (upper / "usr/local/bin/cargo").chmod(0o755)
        toolchain = pathlib.Path(shutil.which("rustc")).parent
        runs = [rest for word, rest in stage if word == "RUN" and not rest.startswith("apt-get")]
        assert runs, "the first stage builds"
        mount = f"mount -t overlay overlay -o lowerdir=/,upperdir={upper},workdir={folder}/work {folder}/merged"
        for run in runs:
            # /proc for the toolchain, and devices for what the shell throws away.
            inside = f"export PATH=/usr/local/bin:{toolchain}:/usr/bin:/bin; cd /src; {run}"
            script = f"set -e; {mount}; mount --rbind /dev {folder}/merged/dev; mount -t proc proc {folder}/merged/proc; "
            script += f"exec chroot {folder}/merged sh -ec {shlex.quote(inside)}"
            run_checked(["unshare", "--mount", "sh", "-c", script])
        return upper

    def do_copy(self, rest, made):
        words = rest.split()
        flags = dict(word[2:].split("=") for word in words if word.startswith("--"))
        source, target = [word for word in words if not word.startswith("--")]
        assert flags.pop("from") == "build" and source.endswith("/") and target == "/", rest
        staged = self.root.parent / "staged"
        run_checked(["cp", "-a", f"{made}{source}", staged])
        run_checked(["chown", "-R", flags.pop("chown", "0:0"), staged])
        assert not flags, flags
        run_checked(["cp", "-a", f"{staged}/.", self.root])
        shutil.rmtree(staged)
        # What is above the files copied belongs to root, as in an image.
        os.chown(self.root, 0, 0)

    def do_user(self, rest, _):
        self.user = rest

    def do_volume(self, rest, _):
        self.volumes += json.loads(rest)

    def do_expose(self, rest, _):
        self.port = int(rest)

    def do_healthcheck(self, rest, _):
        self.health = json.loads(rest[rest.index("CMD") + 3:])

    def do_entrypoint(self, rest, _):
        self.entrypoint = json.loads(rest)

    def do_cmd(self, rest, _):
        self.command = json.loads(rest)

    @staticmethod
    def add_libraries(root):
        """Those that the program names, unless it is static."""
        listed = subprocess.run(["ldd", program()], capture_output=True, text=True).stdout
        for library in re.findall(r"(/\S+) \(0x", listed):
            target = root / library.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, target)


class Network:
    """A network of loopback only, for containers that share it."""

    def __init__(self):
        command = ["unshare", "--net", sys.executable, "-c", NETWORK]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "up\n"

    def inside(self, command):
        return ["nsenter", f"--net=/proc/{self.process.pid}/ns/net", *command]

    def close(self):
        self.process.kill()
        self.process.wait(10)


class Container:
    """One that may be killed and started again; its volumes stay."""

    def __init__(self, image, network, folder, environment, mounts):
        self.image, self.network, self.environment, self.mounts = image, network, environment, dict(mounts)
        folder.mkdir()
        self.root = folder / "root"
        self.root.mkdir()
        for volume in image.volumes:
            # A new volume begins as what the image has there.
            run_checked(["cp", "-a", image.root / volume.lstrip("/"), folder / "volume"])
            self.mounts[volume] = folder / "volume"
        for target, source in mounts.items():
            if source.is_file():
                # As the engine does: a place to mount it on.
                (image.root / target.lstrip("/")).touch()
        self.log_file = folder / "log"
        self.process = None

    def command(self, words):
        root = self.root
        lines = ["set -e", f"mount --bind {self.image.root} {root}"]
        lines += [f"mount --bind {source} {root}{target}" for target, source in self.mounts.items()]
        # What every engine gives. A static program draws random bits from a device.
        lines += [f"mount -t proc proc {root}/proc", f"mount -t tmpfs -o mode=755 tmpfs {root}/dev"]
        lines += [f"cp -a /dev/{device} {root}/dev/{device}" for device in ("null", "zero", "full", "random", "urandom", "tty")]
        lines += [f"mount -t tmpfs -o mode=1777 tmpfs {root}/tmp", f"mount -o remount,ro,bind {root}"]
        lines += [f"exec setpriv --no-new-privs --bounding-set=+sys_chroot,+setuid,+setgid -- chroot "
                  f"--userspec={self.image.user} --groups= {root} {shlex.join(map(str, words))}"]
        return self.network.inside(["unshare", "--mount", "sh", "-c", "\n".join(lines)])

    def start(self):
        words = [*self.image.entrypoint, *self.image.command]
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", **self.environment}
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(
                self.command(words), env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        harness.until(f"healthy; its log:\n{self.log()}", self.healthy)
        return self

    def execute(self, words, **arguments):
        """As `docker exec`."""
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", **self.environment}
        return subprocess.run(self.command(words), env=environment, capture_output=True, timeout=60, **arguments)

    def healthy(self):
        if self.process.poll() is not None:
            raise AssertionError(f"it ended with {self.process.returncode}:\n{self.log()}")
        return self.execute(self.image.health).returncode == 0

    def kill(self):
        self.process.kill()
        self.process.wait(10)

    def log(self):
        return self.log_file.read_text(errors="replace")

    def close(self):
        if self.process and self.process.poll() is None:
            self.kill()


def run_checked(command):
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert ran.returncode == 0, f"{command}:\n{ran.stdout}{ran.stderr}"
