"""`igd` as a user types it, in this process and in one of its own."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from igd_ray.cli import main

REPOSITORY = Path(__file__).resolve().parents[2]


def igd(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run `igd` in this process, expect success, and return its standard output."""
    assert main(list(arguments)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def igd_command(*arguments: str) -> list[str]:
    """The command that runs `igd` in a process of its own."""
    return [sys.executable, "-m", "igd_ray.cli", *arguments]
