"""A Debian machine to install on: an overlay of this one's root, with a systemd of its own as process 1.

dpkg, maintainer scripts and the unit with everything that shuts it in are the real ones; nothing outside changes. Processes,
network, host name, control groups and mounts are its own, and all of it ends with process 1.
"""

import os
import pathlib
import shlex
import signal
import subprocess
import sys

import harness

BOOT_DEADLINE = 60.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What is there before systemd; it makes the rest.
BOOT = """
set -e
root=$1 upper=$2 work=$3
mount -t overlay overlay -o "lowerdir=/,upperdir=$upper,workdir=$work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do cp -a "/dev/$device" "$root/dev/$device"; done
cp -a /dev/null "$root/dev/console"
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
cd "$root"
mkdir -p mnt/outside
pivot_root . mnt/outside
umount -l /mnt/outside
mount --make-rshared /
exec env -i container=other PATH="$PATH" /lib/systemd/systemd --log-target=null --unit=basic.target
"""


def control_groups():
    """Where this machine has control groups of version 2."""
    mounts = [line.split() for line in open("/proc/mounts")]
    return next((pathlib.Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"), None)


def why_not():
    """Why no such machine can be started here, if so."""
    if os.geteuid() != 0:
        return "starting a machine needs root"
    if not os.path.exists("/lib/systemd/systemd"):
        return "there is no systemd; scripts/test installs it"
    if not control_groups():
        return "there are no control groups of version 2"
    return None


class Machine:
    def __init__(self, folder):
        parts = [folder / name for name in ("root", "upper", "work")]
        for part in parts:
            part.mkdir()
        self.group = control_groups() / f"petnet-test-{os.getpid()}"
        self.group.mkdir(exist_ok=True)
        own = ["--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child"]
        script = f'echo $$ > {self.group}/cgroup.procs; exec unshare {" ".join(own)} sh -c "$@"'
        self.log_file = folder / "boot.log"
        with open(self.log_file, "wb") as log:
            words = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", script, "sh", BOOT, "sh", *map(str, parts)]
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self.init = harness.until("its process 1", self.first)
            harness.until("systemd is up", self.is_running, BOOT_DEADLINE)
        except BaseException:
            self.process.kill()
            raise
        # It need not survive a power cut, nor know all its manual pages.
        self.path("/etc/dpkg/dpkg.cfg.d/fast").write_text("force-unsafe-io\n")
        self.path("/var/lib/man-db/auto-update").unlink(missing_ok=True)
        # Images of containers forbid their packages to start anything; machines do not.
        self.path("/usr/sbin/policy-rc.d").unlink(missing_ok=True)

    def first(self):
        assert self.process.poll() is None, self.log_file.read_text()
        return open(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read().strip()

    def is_running(self):
        assert self.process.poll() is None, self.log_file.read_text()
        asked = subprocess.run(self.inside(["systemctl", "is-system-running"]), capture_output=True, text=True)
        # Degraded: something of this machine does not start in a copy of it, which is not what is tested.
        return asked.stdout.strip() in ("running", "degraded")

    def inside(self, words):
        return ["nsenter", f"--target={self.init}", "--all", *map(str, words)]

    def run(self, *words, code=0, **arguments):
        """A command as root; gives stdout and stderr together."""
        environment = {"PATH": PATH, "DEBIAN_FRONTEND": "noninteractive"}
        ran = subprocess.run(
            self.inside(words), env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=120, **arguments
        )
        said = ran.stdout.decode(errors="replace")
        assert ran.returncode == code, f"{shlex.join(map(str, words))} ended with {ran.returncode}:\n{said}"
        return said

    def install(self, package, *flags):
        """By dpkg; the package comes from outside."""
        self.path("/root/package.deb").write_bytes(package.read_bytes())
        return self.run("dpkg", *flags, "-i", "/root/package.deb")

    def path(self, inside):
        """A file of it, as it is seen from here."""
        return pathlib.Path(f"/proc/{self.init}/root/{inside.lstrip('/')}")

    def there(self, inside):
        return os.path.lexists(self.path(inside))

    def property(self, name, unit="petnet"):
        return self.run("systemctl", "show", "--value", "-p", name, unit).strip()

    def log(self, unit="petnet"):
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", unit)

    def close(self):
        os.kill(int(self.init), signal.SIGKILL)
        self.process.wait(30)
        harness.until("its control groups are empty", self.groups_are_gone)

    def groups_are_gone(self):
        for folder, _, _ in os.walk(self.group, topdown=False):
            try:
                os.rmdir(folder)
            except OSError as busy:
                print(f"{folder}: {busy}", file=sys.stderr)
        return not self.group.exists()
