"""`igd doctor` on the doors to other people's models and data: which are open, said quickly."""

import json
import socket
import time
from pathlib import Path

import pytest

from igd_ray.cli import main
from igd_ray.downloads import unreachable
from tests.toys.loopback_hub import loopback_hub

# Nothing listens there.
CLOSED = "http://127.0.0.1:9"


def test_a_door_is_open_where_any_answer_comes() -> None:
    with loopback_hub() as hub, socket.create_server(("127.0.0.1", 0)) as silent:
        mute = f"http://127.0.0.1:{silent.getsockname()[1]}"
        begun = time.monotonic()
        closed = unreachable([hub.address, CLOSED, mute], seconds=0.5)
        assert time.monotonic() - begun < 2
    assert hub.address not in closed
    assert "refused" in closed[CLOSED]
    assert "0.5" in closed[mute]


def test_doctor_lists_the_doors_and_what_to_bring_where_one_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", CLOSED)
    monkeypatch.setattr("igd_ray.verbs.doctor.unreachable", lambda addresses, seconds: {addresses[0]: "refused"})
    main(["doctor", "--json", "--catalog", str(tmp_path)])
    doors = [row for row in json.loads(capsys.readouterr().out) if row["what"].startswith("download ")]
    assert [row["state"] for row in doors] == ["warning", "ok", "ok", "ok"]
    assert doors[0]["what"] == "download timm:, hf:, CLIP by name"
    assert doors[0]["found"] == f"{CLOSED}: refused"
    assert "--weights FILE, parquet:DIR" in doors[0]["advice"]
