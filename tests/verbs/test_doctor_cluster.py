"""`igd doctor` on tokens, dashboards and versions: what is wrong, and how to put it right."""

import json
import socket
from pathlib import Path

import pytest

from igd_ray.cli import main


@pytest.fixture
def diagnosis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """What doctor says of one thing, in an environment without Ray's variables but for those given."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)

    def look(what: str, **environment: str) -> dict[str, str]:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        main(["doctor", "--json", "--catalog", str(tmp_path)])
        rows: list[dict[str, str]] = json.loads(capsys.readouterr().out)
        (row,) = (row for row in rows if row["what"] == what)
        return row

    return look


@pytest.mark.parametrize(("mode", "state"), [(0o600, "ok"), (0o644, "problem")])
def test_a_token_is_for_its_owner_only(diagnosis, tmp_path: Path, mode: int, state: str) -> None:
    token = tmp_path / "token"
    token.write_text("x")
    token.chmod(mode)
    row = diagnosis("ray token", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token))
    assert row["state"] == state
    assert ("chmod 600" in row["advice"]) == (state == "problem")


def test_a_missing_token(diagnosis, tmp_path: Path) -> None:
    missing = str(tmp_path / "none")
    row = diagnosis("ray token", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=missing)
    assert (row["state"], missing in row["found"]) == ("problem", True)


@pytest.mark.parametrize("name", ["RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"])
@pytest.mark.parametrize(
    ("address", "state"),
    [
        ("127.0.0.1:6399", "warning"),
        ("http://localhost:8299", "warning"),
        ("[::1]:6399", "warning"),
        ("local", "ok"),
        ("10.0.0.7:6399", "problem"),
        ("http://head.example:8265", "problem"),
        ("ray://10.0.0.7:10001", "problem"),
        ("auto", "problem"),
        ("http://127.0.0.1:port", "problem"),
    ],
)
def test_a_cluster_without_tokens(diagnosis, name: str, address: str, state: str) -> None:
    row = diagnosis("ray token", **{name: address})
    assert row["state"] == state
    assert (state == "ok") == (row["advice"] == "")
    if state != "ok":
        assert address in row["found"]
        assert "RAY_AUTH_MODE=token" in row["advice"]


def test_one_cluster_beyond_the_loopback_is_enough(diagnosis) -> None:
    row = diagnosis("ray token", RAY_ADDRESS="127.0.0.1:6399", RAY_API_SERVER_ADDRESS="http://10.0.0.7:8265")
    assert row["state"] == "problem"


def test_a_dashboard_beyond_the_loopback(diagnosis) -> None:
    row = diagnosis("ray dashboard", RAY_API_SERVER_ADDRESS="http://10.0.0.7:8265")
    assert row["state"] == "problem"
    assert "--dashboard-host 127.0.0.1" in row["advice"]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        here = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert diagnosis("ray dashboard", RAY_API_SERVER_ADDRESS=here)["state"] == "ok"


def test_an_open_dashboard_port_is_found_in_the_kernels_table(diagnosis, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Path.read_text
    # 8265 = 0x2049, listening (0A) on every address.
    open_to_all = "  sl  local_address rem_address   st\n   0: 00000000:2049 00000000:0000 0A 0:0\n"
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda path, *rest, **named: open_to_all if str(path) == "/proc/net/tcp" else whole(path, *rest, **named),
    )
    row = diagnosis("ray dashboard")
    assert (row["state"], row["found"]) == ("problem", "port 8265 is open to the network")


def test_a_package_of_another_version_is_named(diagnosis, monkeypatch: pytest.MonkeyPatch) -> None:
    assert diagnosis("versions")["state"] == "ok"
    monkeypatch.setattr("igd_ray.verbs.doctor.requires", lambda _name: ["duckdb>=99", 'mypy>=99; extra == "dev"'])
    row = diagnosis("versions")
    assert row["state"] == "problem"
    assert row["found"].startswith("duckdb ")
    assert row["found"].endswith(", not >=99")
