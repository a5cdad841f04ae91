"""`igd` as a user types it, in this process and in one of its own, and Python programs in new processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from igd_ray.cli import main


def igd(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run `igd` in this process, expect success, and return its standard output."""
    assert main(list(arguments)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def igd_command(*arguments: str) -> list[str]:
    """The command that runs `igd` in a process of its own."""
    return [sys.executable, "-m", "igd_ray.cli", *arguments]


def interruptible(command: Sequence[str]) -> subprocess.Popen[str]:
    """Start `command` so that SIGINT interrupts it, as in a user's terminal, and keep its standard error.

    Where the tests run in the background, a shell has them ignore interrupts, and a new process inherits that.
    """
    return subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def run_python(
    program: str, *arguments: str, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a Python program in a process of its own, in `folder` and with `environment` on top of this process's."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=folder,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=300,
    )
