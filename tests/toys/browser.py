"""Chromium without a window, asked over a pipe: what a page shows, how large, and what its console says."""

import base64
import json
import os
import select
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

# Found where Debian's package puts it, or another build of the same browser.
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")

# After so many seconds without a word it is taken for hung.
PATIENCE_S = 120


class BrowserError(Exception):
    """The browser does not start, or no longer answers."""


def chromium() -> str | None:
    """Return the program of the browser, if this machine has one."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One page of a browser that reaches no network; it opens no port, as a pipe carries what is asked of it."""

    def __init__(self, program: str) -> None:
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        flags = [
            "--headless",
            "--remote-debugging-pipe",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
            f"--user-data-dir={self._folder.name}",
        ]
        # The browser reads from descriptor 3 and writes to 4.
        command = f"exec {shlex.join([program, *flags])} 3<&{theirs_in} 4>&{theirs_out}"
        self._process = subprocess.Popen(
            ["bash", "-c", command],
            pass_fds=(theirs_in, theirs_out),
            stderr=subprocess.DEVNULL,
            # What it writes goes with the folder.
            env={**os.environ, "TMPDIR": self._folder.name, "HOME": self._folder.name},
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._out, self._in, self._rest, self._number = ours_out, ours_in, b"", 0
        self._session: str | None = None
        self._home = "file:"
        self.console: list[str] = []
        try:
            self._attach()
        except (BrowserError, BrokenPipeError) as error:
            self.close()
            raise BrowserError(f"{program} does not start here: {error}") from error

    def _attach(self) -> None:
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the browser."""
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)
        self._folder.cleanup()

    def ask(self, method: str, **parameters: object) -> dict[str, Any]:
        """Return the browser's answer to one of its methods."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, answer
        found: dict[str, Any] = answer["result"]
        return found

    def open(self, page: Path | str, width: int, height: int) -> None:
        """Load a file, or an address, whose other pages it may go to, into a window of so many pixels."""
        address = page if isinstance(page, str) else page.resolve().as_uri()
        self._home = address.partition("?")[0].rpartition("/")[0] + "/" if isinstance(page, str) else "file:"
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        self.console.clear()
        self.ask("Page.navigate", url=address)
        self._wait_until_loaded()

    def follow(self, script: str) -> None:
        """Run an expression that leads to another page, and wait for that."""
        self.ask("Runtime.evaluate", expression=script)
        self._wait_until_loaded()

    def _wait_until_loaded(self) -> None:
        while (event := self._next()).get("method") != "Page.loadEventFired":
            self._note(event)

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key, such as Tab or Enter."""
        code = {"Tab": 9, "Enter": 13}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Write what the window shows, or the whole page, as a PNG file."""
        data = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], PATIENCE_S)
            part = os.read(self._in, 1 << 16) if ready else b""
            if not part:
                raise BrowserError("the browser ended" if ready else f"the browser says nothing for {PATIENCE_S} s")
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        read: dict[str, Any] = json.loads(message)
        return read

    def _note(self, event: dict[str, Any]) -> None:
        """Keep what the console says, and every address that the page asks for beside itself."""
        method, told = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.console.append(str(told["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.console.append(str(told["args"]))
        elif method == "Log.entryAdded":
            self.console.append(told["entry"]["text"])
        elif method == "Network.requestWillBeSent" and not told["request"]["url"].startswith((self._home, "data:")):
            self.console.append(f"asked for {told['request']['url']}")
