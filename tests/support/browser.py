"""Headless Chromium over the WebDriver protocol, which is JSON over HTTP: no package is needed."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
OPTIONS = [
    "--headless",
    "--disable-gpu",
    "--window-size=1280,900",
    # Root in a container has no sandbox, and /dev/shm may be small there.
    "--no-sandbox",
    "--disable-dev-shm-usage",
    # Nothing of its own goes to the network.
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element, by the standard


class Browser:
    """One window of a browser."""

    def __init__(self, address: str) -> None:
        self._address = address

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """A command of the protocol; a script's exception is raised."""
        data = None if body is None else json.dumps(body).encode()
        address = f"{self._address}/{path}".rstrip("/")
        request = urllib.request.Request(address, data, method=method)
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode()) from error

    def open(self, page: Path) -> None:
        """Opens a file and waits until it is loaded."""
        self.call("POST", "url", {"url": page.resolve().as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a function body returns in the page."""
        body = {"script": script, "args": list(arguments)}
        return self.call("POST", "execute/sync", body)

    def point(self, selector: str, press: bool = False) -> None:
        """Moves the mouse to the middle of the first such element, and may press its button."""
        element = self.run(
            "const e = document.querySelector(arguments[0]);"
            "e.scrollIntoView({block: 'center', behavior: 'instant'}); return e;",
            selector,
        )
        move = {"type": "pointerMove", "duration": 50, "x": 0, "y": 0, "origin": element}
        buttons = [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        pointer = {"type": "pointer", "id": "mouse", "actions": [move, *(buttons * press)]}
        self.call("POST", "actions", {"actions": [pointer]})

    def write(self, selector: str, text: str) -> None:
        """Types into the first such element."""
        found = self.call("POST", "element", {"using": "css selector", "value": selector})
        self.call("POST", f"element/{found[_ELEMENT]}/value", {"text": text})

    def console(self) -> list[str]:
        """Messages of the console since it was last asked."""
        return [entry["message"] for entry in self.call("POST", "se/log", {"type": "browser"})]

    def developer(self, command: str, **parameters: Any) -> Any:
        """A command of Chromium's developer tools."""
        body = {"cmd": command, "params": parameters}
        return self.call("POST", "goog/cdp/execute", body)

    def colour_scheme(self, scheme: str) -> None:
        """`light` or `dark`."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.developer("Emulation.setEmulatedMedia", features=[feature])

    def size(self, width: int, height: int, phone: bool = False) -> None:
        """The size of the window in CSS pixels."""
        parameters = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.developer("Emulation.setDeviceMetricsOverride", **parameters)

    def screenshot(self, file: Path) -> None:
        """The whole page as PNG, what is below the window included."""
        shot = self.developer("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browser() -> Iterator[Browser]:
    """A fresh browser, ended afterwards."""
    command = [str(DRIVER), "--port=0"]
    with (
        TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver,
    ):
        try:
            assert driver.stdout is not None
            port = next(
                found[1]
                for line in driver.stdout
                if (found := re.search(r"started successfully on port (\d+)", line))
            )
            root = f"http://127.0.0.1:{port}"
            arguments = [*OPTIONS, f"--user-data-dir={profile}"]
            wanted = {
                "goog:chromeOptions": {"binary": CHROMIUM, "args": arguments},
                "goog:loggingPrefs": {"browser": "ALL"},
            }
            made = Browser(root).call("POST", "session", {"capabilities": {"alwaysMatch": wanted}})
            session = Browser(f"{root}/session/{made['sessionId']}")
            try:
                yield session
            finally:
                session.call("DELETE", "")
        finally:
            driver.terminate()
