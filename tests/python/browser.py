"""Debian's Chromium without a window, driven over a pipe by its DevTools protocol: no driver, no other package.

Every wait has a deadline. The browser ends with the pipe, so also when the test process is gone.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time

DEADLINE = 30.0
# With fixed fonts and no scroll bars, so that two screenshots differ only where the page does.
FLAGS = [
    "--headless=new", "--remote-debugging-pipe", "--no-first-run", "--no-default-browser-check", "--disable-gpu",
    "--disable-dev-shm-usage", "--disable-extensions", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--hide-scrollbars", "--force-device-scale-factor=1", "--mute-audio",
]


class Browser:
    """One Chromium process with one page."""

    def __init__(self, profile):
        program = shutil.which("chromium")
        assert program, "no chromium; on Debian: apt-get install chromium (scripts/test does that)"
        # Chromium reads commands from descriptor 3 and writes answers to 4.
        theirs_in, self.commands = os.pipe()
        self.answers, theirs_out = os.pipe()
        # A sandbox cannot be made by root, as whom tests run in containers; the only pages shown are our own.
        flags = FLAGS + (["--no-sandbox"] if os.geteuid() == 0 else [])
        arguments = [program, *flags, f"--user-data-dir={profile}", "about:blank"]
        # Not sh: Debian's takes no descriptor above 9.
        redirected = ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", *arguments]
        self.process = subprocess.Popen(
            redirected, pass_fds=(theirs_in, theirs_out), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.buffer = b""
        self.number = 0
        self.events = []
        self.fulfil = {}
        self.session = None
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.command(f"{domain}.enable")

    def close(self):
        os.close(self.commands)
        os.close(self.answers)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)

    def send(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        return self.number

    def command(self, method, **parameters):
        """Sends a command and returns its result; events that come meanwhile are kept."""
        number, end = self.send(method, **parameters), time.monotonic() + DEADLINE
        while True:
            message = self.read(end, method)
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]

    def read(self, end, what):
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.answers], [], [], max(0, end - time.monotonic()))
            assert ready, f"the browser did not answer within {DEADLINE} s: {what}"
            piece = os.read(self.answers, 1 << 20)
            assert piece, f"the browser ended: {what}"
            self.buffer += piece
        line, self.buffer = self.buffer.split(b"\0", 1)
        message = json.loads(line)
        if message.get("method") == "Fetch.requestPaused":
            self.answer_paused(message["params"])
        elif "method" in message:
            self.events.append(message)
        return message

    def answer_paused(self, paused):
        path = "/" + paused["request"]["url"].split("/", 3)[-1]
        body = self.fulfil.get(path)
        if body is None:
            self.send("Fetch.failRequest", requestId=paused["requestId"], errorReason="ConnectionRefused")
        else:
            headers = [{"name": "content-type", "value": "application/json"}]
            encoded = base64.b64encode(json.dumps(body).encode()).decode()
            self.send(
                "Fetch.fulfillRequest", requestId=paused["requestId"], responseCode=200, responseHeaders=headers, body=encoded
            )

    def instead(self, path, body):
        """Answers requests for a path with JSON from here; None: with a refused connection."""
        self.fulfil[path] = body
        self.command("Fetch.enable", patterns=[{"urlPattern": f"*{path}"}])

    def open(self, url):
        self.events.clear()
        self.command("Page.navigate", url=url)
        end = time.monotonic() + DEADLINE
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.read(end, f"loading {url}")

    def evaluate(self, expression):
        result = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, f"{expression}: {result['exceptionDetails']}"
        return result["result"].get("value")

    def until(self, expression, deadline=DEADLINE):
        """Waits until an expression of the page is true, and returns its value."""
        end = time.monotonic() + deadline
        while True:
            value = self.evaluate(expression)
            if value:
                return value
            assert time.monotonic() < end, f"not within {deadline} s: {expression}; the page says:\n{self.text('body')}"
            time.sleep(0.05)

    def text(self, selector):
        """What a reader sees of an element."""
        return self.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? null")

    def texts(self, selector):
        return self.evaluate(f"[...document.querySelectorAll({json.dumps(selector)})].map(each => each.innerText)")

    def size(self, width, height):
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def scheme(self, name):
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def screenshot(self, path):
        """The whole page, as far down as it goes."""
        height = self.evaluate("document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": self.evaluate("innerWidth"), "height": height, "scale": 1}
        image = self.command("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
        path.write_bytes(base64.b64decode(image))

    def requests(self):
        """Addresses that the page asked for."""
        sent = [event for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def complaints(self):
        """Errors on the console: exceptions, and what the policy forbade. Not that the gateway did not answer."""
        thrown = [e["params"] for e in self.events if e["method"] == "Runtime.exceptionThrown"]
        logged = [e["params"]["entry"] for e in self.events if e["method"] == "Log.entryAdded"]
        return thrown + [entry for entry in logged if entry["level"] == "error" and entry["source"] != "network"]
