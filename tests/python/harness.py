"""Real gateway processes and a Python PETNet peer, for black-box tests.

Every wait has a deadline. A gateway stops by itself when the test process is gone.
"""

import json
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time
from concurrent import futures

import grpc

ROOT = pathlib.Path(__file__).resolve().parents[2]
START_DEADLINE = 30.0
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def binary():
    """The gateway's program: PETNET_BIN, else the release build, else the debug build."""
    if "PETNET_BIN" in os.environ:
        return pathlib.Path(os.environ["PETNET_BIN"]).resolve()
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    for profile in ("release", "debug"):
        if (target / profile / "petnet").exists():
            return target / profile / "petnet"
    raise RuntimeError("no petnet binary; run `cargo build --release` or set PETNET_BIN")


def free_ports(count):
    """Ports that are free now; all are held until all are found."""
    held = []
    for _ in range(count):
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        held.append(listener)
    ports = [listener.getsockname()[1] for listener in held]
    for listener in held:
        listener.close()
    return ports


def until(what, condition, deadline=30.0, pause=0.02):
    """Waits for a condition of another process, which can only be asked for, and returns its value."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline} s: {what}")
        time.sleep(pause)


class Gateway:
    """A gateway process of one party."""

    def __init__(self, stubs, folder, party, port, party_file, certs=None, **settings):
        self.stubs = stubs
        self.certs = certs
        self.party = party
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self.log_file = folder / f"{party}.log"
        self.settings = {
            "PARTY": party,
            "LISTEN_ADDR": self.address,
            "HTTP_LISTEN_ADDR": "off",
            "CONFIG_FILE_PATH": str(party_file),
            "DATA_DIR": str(folder / party),
            "PEM_PATH": str(certs or folder / "no-certificates"),
            "RETRY_CAP": "1s",
            "SHUTDOWN_GRACE": "3s",
            **settings,
        }
        self.process = None
        self.channels = []

    def start(self):
        environment = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR") if key in os.environ}
        environment.update(self.settings)
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(
                [binary(), "serve", "--stop-with-stdin"],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        until(f"{self.party} serves; its log:\n{self.log()}", self.serving, START_DEADLINE)
        return self

    def serving(self):
        if self.process.poll() is not None:
            raise AssertionError(f"{self.party} ended with {self.process.returncode}:\n{self.log()}")
        health, _ = self.stubs
        with self.channel(self.certs) as channel:
            try:
                answer = health.grpc.HealthStub(channel).Check(health.pb.HealthCheckRequest(), timeout=2)
            except grpc.RpcError:
                return False
        return answer.status == health.pb.HealthCheckResponse.SERVING

    def channel(self, certs=None, root=None):
        """A channel with the certificates of a folder, or with none; root: a gateway's root without any of our own."""
        if certs is None and root is None:
            return grpc.insecure_channel(self.address, options=UNLIMITED)
        read = lambda path: path.read_bytes()
        if certs is None:
            credentials = grpc.ssl_channel_credentials(read(root))
        else:
            own_root = read(root or self.certs / "ca.crt")
            credentials = grpc.ssl_channel_credentials(own_root, read(certs / "client.key"), read(certs / "client.crt"))
        return grpc.secure_channel(self.address, credentials, options=UNLIMITED)

    def client(self, certs=None, root=None):
        _, simple = self.stubs
        channel = self.channel(certs or (None if root else self.certs), root)
        self.channels.append(channel)
        return Client(simple, channel)

    def kill(self):
        """SIGKILL: it gets no chance to write anything down."""
        self.process.kill()
        self.process.wait(10)

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def close(self):
        for channel in self.channels:
            channel.close()
        if self.process and self.process.poll() is None:
            self.kill()

    def log(self):
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""


class Client:
    """PETNet's client, as its Python package calls the gateway."""

    def __init__(self, simple, channel):
        self.pb = simple.pb
        self.channel = channel
        self.stub = simple.grpc.SimpleRequestServerStub(channel)

    def send(self, receiver, message_id, payload, timeout=60):
        request = self.pb.ClientSimpleSendRequest(
            message_id=message_id, receiver_id=receiver, payload=payload
        )
        return self.stub.ClientSimpleSend(request, timeout=timeout)

    def accepted(self, receiver, message_id, payload):
        response = self.send(receiver, message_id, payload)
        assert response.success, response
        return response

    def recv(self, message_id, wait_ms=None, timeout=60):
        metadata = None if wait_ms is None else [("petnet-wait-ms", str(wait_ms))]
        request = self.pb.ClientSimpleRecvRequest(message_id=message_id)
        return self.stub.ClientSimpleRecv(request, timeout=timeout, metadata=metadata)

    def received(self, message_id, deadline=30.0):
        """The payload; waits for it."""

        def ask():
            response = self.recv(message_id, wait_ms=2000)
            assert response.success, response
            return response if response.HasField("payload") else None

        return until(f"message {message_id!r}", ask, deadline).payload


def waiting_receives(gateway):
    """How many receives wait at it."""
    command = [binary(), "status", "--json", "--data-dir", gateway.settings["DATA_DIR"]]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["mailbox"]["waiting"]


class PythonPeer:
    """A Python PETNet gateway as far as ours sees it: only ServerSimpleSend, grpcio's limit of 4 MiB, no metadata."""

    def __init__(self, simple, port, certs=None):
        self.simple = simple
        self.port = port
        self.certs = certs
        self.messages = {}
        self.arrivals = []
        self.changed = threading.Condition()
        self.server = None

    def start(self):
        simple, peer = self.simple, self

        class Servicer(simple.grpc.SimpleRequestServerServicer):
            def ServerSimpleSend(self, request, context):
                with peer.changed:
                    peer.messages[request.message_id] = request.payload
                    peer.arrivals.append(request.message_id)
                    peer.changed.notify_all()
                return simple.pb.Response(success=True)

        self.server = grpc.server(futures.ThreadPoolExecutor(max_workers=10))
        simple.grpc.add_SimpleRequestServerServicer_to_server(Servicer(), self.server)
        address = f"127.0.0.1:{self.port}"
        if self.certs:
            # As Python PETNet does: it asks nobody for a certificate.
            pair = ((self.certs / "server.key").read_bytes(), (self.certs / "server.crt").read_bytes())
            bound = self.server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        else:
            bound = self.server.add_insecure_port(address)
        assert bound == self.port
        self.server.start()
        return self

    def stop(self):
        if self.server:
            self.server.stop(0).wait(10)
            self.server = None

    def received(self, message_id, deadline=30.0):
        with self.changed:
            assert self.changed.wait_for(lambda: message_id in self.messages, deadline), (
                f"{message_id!r} not delivered within {deadline} s; here are {sorted(self.messages)[:20]}"
            )
            return self.messages[message_id]


def make_certificates(folder, party):
    """An authority and certificates of a party, as an operator makes them."""
    subprocess.run([binary(), "certs", "init", "--party", party, "--out", folder], check=True, stdout=subprocess.DEVNULL)
    return folder


def write_party_file(path, ports, certs=None):
    def connection(party, port):
        root = {"certificates": str(certs[party] / "ca.crt")} if certs else {}
        return {"type": 1, "url": f"127.0.0.1:{port}", "whitelist": ["*"], **root}

    parties = {party: {"petnet": [connection(party, port)]} for party, port in ports.items()}
    path.write_text(json.dumps(parties))
    return path
