"""What a local Ray needs beside its start: a folder and a token of its owner's alone, and somebody who sees it die."""

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# Without them no unit comes back, and Ray's own code in this process waits for a minute or ends it with a stack trace.
VITAL = {"raylet": "raylet", "gcs_server": "GCS server"}

SECONDS_BETWEEN_LOOKS = 0.2

# What a raylet writes into its log before it follows one of its agents.
LOST_AGENT = re.compile(r"because one Ray agent failed, agent_name = (\w+)")

# Its standard input ends when the process does that started it.
GUARD = """
import os, signal, sys, time

sys.stdin.read()
time.sleep(5)
for agent in sys.argv[1:]:
    number, _, begun = agent.partition(":")
    try:
        with open(f"/proc/{number}/stat") as file:
            if file.read().rpartition(")")[2].split()[19] == begun:
                os.kill(int(number), signal.SIGKILL)
    except OSError:
        pass
"""


@contextmanager
def private_folder() -> Iterator[str]:
    """While open, there is a folder for Ray's sockets and logs that nobody else may enter; Ray opens its own to all.

    It stays behind where what ran ends in an error, as the logs may say why.
    """
    # Where Ray would make its own: paths of sockets must be short, and those of macOS's temporary files are long.
    place = os.environ.get("RAY_TMPDIR") or ("/tmp" if sys.platform == "darwin" else None)
    folder = tempfile.mkdtemp(prefix="igd-ray-", dir=place)
    keep = False
    try:
        # One inside, as Ray opens this one to all, too.
        yield str(Path(folder) / "ray")
    except Exception:
        keep = True
        raise
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def make_token() -> None:
    """Make the token that Ray would make, if there is none, but readable by its owner only."""
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    file = Path.home() / ".ray" / "auth_token"
    # Where it cannot be made, Ray says so; where it is there, it stays.
    with suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if file.exists():
            return
        with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=".auth_token-") as temporary:
            temporary.write(secrets.token_hex(32))
            temporary.flush()
            os.link(temporary.name, file)


@contextmanager
def own_handler_of_sigterm(utils: Any) -> Iterator[None]:
    """While open, Ray does not replace this process's handler of SIGTERM; a process without one gets Ray's.

    Args:
        utils: the module `ray._private.utils`.
    """
    before = signal.getsignal(signal.SIGTERM)
    if before is signal.SIG_DFL or threading.current_thread() is not threading.main_thread():
        yield
        return
    setting, utils.set_sigterm_handler = utils.set_sigterm_handler, lambda _handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = setting
        # Ray's C++ has set one, too, which prints a stack trace.
        signal.signal(signal.SIGTERM, before)


@contextmanager
def guarded(node: Any) -> Iterator[None]:
    """While open, a small process waits for the end of this one, and then ends the agents of its raylet.

    They would go on for a minute, to report the end of the raylet to a GCS server that is gone, too.

    Args:
        node: as in `watched`.
    """
    (raylet,) = node.all_processes["raylet"]
    agents = [f"{number}:{_begun(number)}" for number in _children(raylet.process.pid)]
    # In a session of its own, so that Ctrl-C in a terminal does not end it.
    guard = subprocess.Popen(
        [sys.executable, "-S", "-c", GUARD, *agents], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        yield
    finally:
        guard.kill()
        guard.communicate()


def _children(parent: int) -> list[int]:
    """Return the processes that `parent` has started; none where the system has no /proc."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (entry / "stat").read_text().rpartition(")")[2].split()[1] == str(parent):
                found.append(int(entry.name))
    return found


def _begun(number: int) -> str:
    """Return when a process began, which tells it from a later one with its number."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


@contextmanager
def watched(node: Any) -> Iterator[None]:
    """While open, the death of a local Ray's raylet or GCS server ends this process: one line, exit code 1.

    At once, and without cleaning up, as calls of Ray would not return. What units have committed stays.

    Args:
        node: Ray's `Node`, whose processes are looked at.
    """
    over = threading.Event()

    def look() -> None:
        while not over.wait(SECONDS_BETWEEN_LOOKS):
            dead = [(VITAL[kind], process) for kind, process in node.dead_processes() if kind in VITAL]
            if dead and not over.is_set():
                _leave(*dead[0], Path(node.get_logs_dir_path()))

    watcher = threading.Thread(target=look, name="igd-ray-watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()


def _leave(what: str, process: Any, logs: Path) -> None:
    agent = None
    with suppress(OSError):
        agent = LOST_AGENT.search((logs / "raylet.out").read_text(encoding="utf-8", errors="replace"))
    why = f"its agent {agent[1]} ended" if agent else _ending(process.returncode)
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    line = (
        f"igd: error: Ray's {what} died under this run ({why}); every finished unit is kept, run the same command "
        f"again to go on; Ray's logs: {logs}\n"
    )
    with suppress(OSError):
        os.write(2, line.encode())
    os._exit(1)


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"ended by signal {-code}"
