"""A real browser for the report's tests: headless Chromium, spoken to over its own debugging port.

Collects what the page says on the console and what it asks for; clicks with the mouse, types with keys.
"""

import base64
import contextlib
import json
import subprocess
import time
from pathlib import Path

import websocket

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync --mute-audio "
    "--disable-background-networking --disable-component-update --hide-scrollbars "
    "--remote-debugging-port=0 --remote-allow-origins=*"
)


class Tab:
    """One page; `console` and `requests` fill while it is open."""

    def __init__(self, socket):
        self._socket, self._id = socket, 0
        self.console, self.requests = [], []

    def send(self, method, **params):
        self._id += 1
        self._socket.send(json.dumps({"id": self._id, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._id:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message):
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded":
                self.console.append(json.dumps(message["params"])[:300])
            case _:
                pass

    def evaluate(self, script):
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def view(self, width, height=900, dark=False):
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.send("Emulation.setDeviceMetricsOverride", **metrics)

    def open(self, url):
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        self.send("Page.navigate", url=url)
        until = time.monotonic() + 30
        # The blank page before it is complete too.
        done = "document.readyState === 'complete' && location.href !== 'about:blank'"
        while not self.evaluate(done):
            assert time.monotonic() < until, "the page did not load"
            time.sleep(0.05)

    def click(self, expression):
        """Click the middle of an element with the mouse."""
        place = self.evaluate(
            f"(()=>{{const e={expression};e.scrollIntoView({{block:'center',inline:'center'}});"
            "const r=e.getBoundingClientRect();return [r.x+r.width/2,r.y+r.height/2]})()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            spot = {"x": place[0], "y": place[1], "button": "left", "clickCount": 1}
            self.send("Input.dispatchMouseEvent", type=kind, **spot)

    def press_enter(self):
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
        self.send("Input.dispatchKeyEvent", type="keyDown", **key)
        self.send("Input.dispatchKeyEvent", type="keyUp", **key)

    def screenshot(self, path, *, whole=False):
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def open_tab(folder):
    """Start a browser whose profile lies in `folder`; it ends with the block."""
    command = ["chromium", *FLAGS.split(), f"--user-data-dir={folder}/profile", "about:blank"]
    with open(Path(folder) / "browser.log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        port = Path(folder) / "profile/DevToolsActivePort"
        until = time.monotonic() + 60
        while not (port.exists() and port.read_text().count("\n")):
            assert process.poll() is None, "the browser ended"
            assert time.monotonic() < until, "no browser"
            time.sleep(0.05)
        number = port.read_text().splitlines()[0]
        socket = websocket.create_connection(_page(number), timeout=60)
        yield Tab(socket)
        socket.close()
    finally:
        process.terminate()
        process.wait(30)


def _page(number):
    from urllib.request import urlopen

    with urlopen(f"http://127.0.0.1:{number}/json/list", timeout=30) as answer:
        targets = json.loads(answer.read())
    return next(t["webSocketDebuggerUrl"] for t in targets if t["type"] == "page")
