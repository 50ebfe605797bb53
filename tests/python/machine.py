"""A Debian machine to install on: an overlay of this one's root, in which dpkg runs for real and changes nothing outside.

It has a network of its own, and no systemd: what a unit says is carried out as systemd would.
"""

import os
import pathlib
import shlex
import subprocess

import image

SERVICE = "usr/lib/systemd/system/petnet.service"


class Machine:
    def __init__(self, folder):
        for name in ("upper", "work", "root"):
            (folder / name).mkdir()
        self.root = folder / "root"
        self.folder = folder
        self.network = image.Network()
        lines = [
            "set -e",
            f"mount -t overlay overlay -o lowerdir=/,upperdir={folder}/upper,workdir={folder}/work {self.root}",
            f"mount -t proc proc {self.root}/proc",
            f"mount --rbind /dev {self.root}/dev",
            # Not this machine's: what runs here must not be seen there.
            f"mount -t tmpfs tmpfs {self.root}/run",
            "echo up",
            "exec cat",
        ]
        command = ["unshare", "--mount", "sh", "-c", "\n".join(lines)]
        self.holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.holder.stdout.readline() == "up\n"
        self.processes = []
        # It need not survive a power cut, nor know all its manual pages.
        self.path("/etc/dpkg/dpkg.cfg.d/fast").write_text("force-unsafe-io\n")
        self.path("/var/lib/man-db/auto-update").unlink(missing_ok=True)

    def inside(self, words):
        enter = ["nsenter", f"--mount=/proc/{self.holder.pid}/ns/mnt", "chroot", self.root, *words]
        return self.network.inside(list(map(str, enter)))

    def run(self, *words, code=0, **arguments):
        """A command as root; gives stdout and stderr together."""
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"}
        arguments = {"stdin": subprocess.DEVNULL} | arguments
        ran = subprocess.run(
            self.inside(words), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, **arguments
        )
        said = ran.stdout.decode(errors="replace")
        assert ran.returncode == code, f"{shlex.join(map(str, words))} ended with {ran.returncode}:\n{said}"
        return said

    def path(self, inside):
        """A file of it, as it is seen from here through the mount of its holder."""
        return pathlib.Path(f"/proc/{self.holder.pid}/root{self.root}/{inside.lstrip('/')}")

    def there(self, inside):
        return os.path.lexists(self.path(inside))

    def unit(self):
        """The unit that is installed: key to values, in their order."""
        found = {}
        for line in self.path(SERVICE).read_text().splitlines():
            if "=" in line and not line.startswith("#"):
                key, value = line.split("=", 1)
                found.setdefault(key, []).append(value)
        return found

    def start_service(self, *wrapped, **environment):
        """Starts what the unit starts, as its user and with its environment; `wrapped` goes in front of the command."""
        unit = self.unit()
        settings = dict(word.split("=", 1) for line in unit["Environment"] for word in line.split())
        for file in unit["EnvironmentFile"]:
            lines = self.path(file).read_text().splitlines()
            settings |= dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
        [user], [group], [folder] = unit["User"], unit["Group"], unit["WorkingDirectory"]
        as_user = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs", "--bounding-set=-all",
                   "--inh-caps=-all", "env", "-i", *(f"{key}={value}" for key, value in (settings | environment).items())]
        command = f"umask {unit['UMask'][0]}; cd {folder}; exec "
        command += shlex.join([*as_user, *wrapped, *shlex.split(unit["ExecStart"][0])])
        log = self.folder / f"service-{len(self.processes)}.log"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                self.inside(["sh", "-c", command]), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        self.processes.append(process)
        return Service(self, process, log, environment)

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait(10)
        self.holder.kill()
        self.holder.wait(10)
        self.network.close()


class Service:
    """The gateway, as the unit starts it."""

    def __init__(self, machine, process, log, environment):
        self.machine, self.process, self.log_file = machine, process, log
        listens = environment.get("LISTEN_ADDR", "127.0.0.1:1235")
        try:
            machine.run("/usr/bin/petnet", "health", "--gateway", listens, "--wait", "30s")
        except AssertionError as failed:
            raise AssertionError(f"{failed}\nits log:\n{self.log()}") from failed

    def log(self):
        return self.log_file.read_text(errors="replace")

    def stop(self):
        self.process.terminate()
        return self.process.wait(60)
