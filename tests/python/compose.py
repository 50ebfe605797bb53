"""Starts what a compose file describes without containers: the same programs, settings and files, on ports of loopback.

Of images it knows ours, Redis and HAProxy; those of the system run in their place. Every `service:port` in settings and
files becomes the port of 127.0.0.1 on which that service listens here.
"""

import re
import shutil
import socket
import subprocess

import yaml

import harness

GATEWAY_PORT = 1235
REDIS_PORT = 6379
CERTIFICATES = "/app/certs"


class Stack:
    """The services of a compose file, as processes that end with this one."""

    def __init__(self, stubs, path, folder):
        self.stubs = stubs
        self.path = path
        self.folder = folder
        self.file = yaml.safe_load(path.read_text())
        self.services = self.file["services"]
        wanted = [(name, self.port_of(name)) for name in self.services]
        self.ports = dict(zip(wanted, harness.free_ports(len(wanted))))
        self.processes = []
        self.gateways = {}

    def is_gateway(self, name):
        return "build" in self.services[name]

    def check_what_it_names(self):
        """Settings, volumes and files are there, and plaintext is for this machine only."""
        program = subprocess.run([harness.binary(), "serve", "--help"], capture_output=True, text=True, check=True).stdout
        settings = set(re.findall(r"\[env: (\w+)", program))
        volumes = set(self.file["volumes"])
        for name, service in self.services.items():
            assert set(service.get("environment", {})) <= settings, name
            assert set(service.get("depends_on", [])) <= set(self.services), name
            for volume in service.get("volumes", []):
                source = volume.split(":")[0]
                # An engine makes a folder that is missing, as those of certificates.
                is_folder = volume.split(":")[1] == CERTIFICATES and (self.path.parent / source).parent.is_dir()
                is_file = source.startswith("./") and (self.path.parent / source).is_file()
                assert source in volumes or is_file or is_folder, volume
            if self.is_gateway(name):
                context = self.path.parent / service["build"]["context"]
                assert (context / service["build"]["dockerfile"]).is_file(), name
                # A gateway is known by it: two that have the same would take each other for one that started anew.
                assert service["hostname"] == name
            # What RFC 1123 takes for a host.
            assert re.fullmatch(r"[a-z0-9-]+", name), name
        published = [port for service in self.services.values() for port in service.get("ports", [])]
        assert published and all(port.startswith("127.0.0.1:") for port in published), published

    def port_of(self, name):
        return REDIS_PORT if self.image(name) == "redis" else GATEWAY_PORT

    def image(self, name):
        return self.services[name]["image"].split(":")[0]

    def port(self, name):
        """Where a service listens here."""
        return self.ports[name, self.port_of(name)]

    def here(self, text):
        """The text with addresses of services as they are here."""
        for (name, port), own in self.ports.items():
            text = re.sub(rf"\b{name}:{port}\b", f"127.0.0.1:{own}", text)
        return text

    def mounted(self, name, target):
        """A file of ours that a service sees as `target`, as it is here."""
        for volume in self.services[name].get("volumes", []):
            source, at = volume.split(":")[:2]
            if at == target:
                copy = self.folder / f"{name}-{target.rsplit('/', 1)[1]}"
                copy.write_text(self.here((self.path.parent / source).read_text()))
                return copy
        raise AssertionError(f"{self.path}: {name} has no {target}")

    def start(self):
        """Starts them all, each after those that it depends on."""
        started = set()

        def start(name):
            if name in started:
                return
            started.add(name)
            for other in self.services[name].get("depends_on", []):
                start(other)
            {"redis": self.redis, "haproxy": self.haproxy, "petnet": self.gateway}[self.image(name)](name)

        for name in self.services:
            start(name)
        return self

    def redis(self, name):
        data = self.folder / name
        data.mkdir()
        own = ["--port", str(self.port(name)), "--bind", "127.0.0.1", "--dir", str(data)]
        self.run(name, [*self.services[name]["command"], *own])

    def haproxy(self, name):
        config = self.mounted(name, "/usr/local/etc/haproxy/haproxy.cfg")
        text = config.read_text()
        bind = f"bind :{GATEWAY_PORT}"
        assert bind in text, text
        config.write_text(text.replace(bind, f"bind 127.0.0.1:{self.port(name)}"))
        self.run(name, ["haproxy", "-db", "-f", str(config)])

    def gateway(self, name):
        party_file = self.mounted(name, "/app/parties/party.json")
        folder = self.folder / name
        folder.mkdir()
        environment = {key: self.here(value) for key, value in self.services[name]["environment"].items()}
        gateway = harness.Gateway(self.stubs, folder, environment["PARTY"], self.port(name), party_file)
        # What the file says and where things are here; nothing else.
        places = ("LISTEN_ADDR", "HTTP_LISTEN_ADDR", "CONFIG_FILE_PATH", "DATA_DIR", "PEM_PATH")
        gateway.settings = {place: gateway.settings[place] for place in places} | environment
        self.gateways[name] = gateway
        gateway.start()

    def run(self, name, command):
        assert shutil.which(command[0]), f"{command[0]} is missing; scripts/test installs it"
        log_file = self.folder / f"{name}.log"
        with open(log_file, "wb") as log:
            words = ["setpriv", "--pdeathsig", "KILL", *command]
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.processes.append(process)

        def listens():
            assert process.poll() is None, f"{command} ended:\n{log_file.read_text(errors='replace')}"
            with socket.socket() as asked:
                return asked.connect_ex(("127.0.0.1", self.port(name))) == 0

        harness.until(f"{name} listens", listens)

    def close(self):
        for gateway in self.gateways.values():
            gateway.close()
        for process in self.processes:
            process.kill()
            process.wait(10)
