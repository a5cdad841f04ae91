"""`igd view` answers only to its own address, on the loopback, and only reads."""

import re
import signal
import socket
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

import pytest

from igd_ray.catalog import Catalog, named_queries
from igd_ray.cli import main
from tests.toys.commands import igd_command

POLICY = (
    r"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-[\w+/=]{44}'; img-src data:; "
    r"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def answer(
    address: str, path: str = "", *, method: str = "GET", host: str | None = None
) -> tuple[int, str, dict[str, str]]:
    """Ask for a page beside `address`; return its status, text and headers."""
    parts = urlsplit(address)
    connection = HTTPConnection(parts.hostname or "", parts.port or 0, timeout=60)
    connection.request(method, parts.path + path, headers={"Host": host or parts.netloc})
    response = connection.getresponse()
    return response.status, response.read().decode(), dict(response.headers)


def test_runs_are_listed_the_newest_first_and_words_choose_among_them(address: str) -> None:
    status, text, _ = answer(address)
    assert status == 200
    assert re.findall(r'href="run\?id=(\w+)"', text) == ["run", "second"]
    assert "65.0 % (loir-12)" in text, "the best worst case"
    assert "Runs: 2." in text
    _, text, _ = answer(address, "?" + urlencode({"q": "OTHER linf"}))
    assert re.findall(r'href="run\?id=(\w+)"', text) == ["second"]
    assert "Runs: 1 of 2." in text
    _, text, _ = answer(address, "?q=nothing")
    assert "Runs: 0 of 2." in text


def test_each_run_has_its_report_with_a_way_back(address: str) -> None:
    status, text, _ = answer(address, "run?id=run")
    assert status == 200
    assert "What may be claimed" in text or "gains 45.0 points" in text
    assert '<a href="./">Runs</a>' in text
    assert '<a href="images?id=run">Images of this run</a>' in text


def test_runs_are_compared(address: str) -> None:
    status, text, _ = answer(address, "compare?run=run&run=second")
    assert status == 200
    assert "2 runs compared" in text
    assert answer(address, "compare?run=run&run=run")[0] == 400


def test_images_are_shown_page_by_page(address: str) -> None:
    status, text, _ = answer(address, "images?id=run")
    assert status == 200
    assert "aa on none, returned: 40" in text
    assert text.count('alt="Adversarial image') == 24
    assert "igd view --clean-images" not in text, "the catalog alone knows of no clean images"
    after = re.search(r'<a href="(images\?[^"]+)">More', text)
    assert after is not None
    _, text, _ = answer(address, after[1].replace("&amp;", "&"))
    assert text.count('alt="Adversarial image') == 40 - 24
    _, text, _ = answer(address, "images?id=run&status=broken")
    assert "stays" not in text
    assert "without an attack" not in text
    assert answer(address, "images?id=run&first=-1")[0] == 400
    assert answer(address, "images?id=run&of=99")[0] == 200


def test_sql_is_answered(address: str) -> None:
    _, text, _ = answer(address, "sql?" + urlencode({"sql": "SELECT 40 + 2 AS sum, '<i>' AS mark, NULL AS nothing"}))
    assert re.findall(r"<t[hd][^>]* class=\"(\w+)\"[^>]*>([^<]*)</t", text) == [
        *(("number", "sum"), ("text", "mark"), ("text", "nothing")),
        *(("number", "42"), ("text", "&lt;i&gt;"), ("text", "NULL")),
    ]
    _, text, _ = answer(address, "sql?" + urlencode({"sql": "SELECT * FROM range(5000)"}))
    assert "Rows: 1000, the first ones; 1000 are shown at most" in text
    assert "physical_plan" in answer(address, "sql?" + urlencode({"sql": "EXPLAIN SELECT 1"}))[1]


@pytest.mark.parametrize("name", named_queries())
def test_queries_that_ship_are_a_link_away(address: str, name: str) -> None:
    status, text, _ = answer(address, f"sql?file={name}")
    assert status == 200
    assert 'role="alert"' not in text


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM runs", "the SQL must be one SELECT or EXPLAIN SELECT statement, not DELETE"),
        ("COPY (SELECT 1) TO 'written.csv'", "not COPY"),
        ("CREATE TABLE t AS SELECT 1", "not CREATE"),
        ("ATTACH 'written.db'", "not ATTACH"),
        ("SELECT 1; SELECT 2", "not SELECT and SELECT"),
        ("SELECT * FROM read_text('/etc/passwd')", "disabled by configuration"),
        ("SELECT * FROM 'http://127.0.0.1:1/x.parquet'", "disabled by configuration"),
        ("SET enable_external_access = true", "not SET"),
        ("SELEKT", "syntax error"),
    ],
)
def test_sql_that_does_not_only_read_the_catalog_is_refused(
    address: str, statement: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, text, _ = answer(address, "sql?" + urlencode({"sql": statement}))
    alert = re.search(r'role="alert">([^<]*)<', text)
    assert alert is not None
    assert said in alert[1]
    assert list(tmp_path.iterdir()) == []


def test_another_token_is_refused_on_every_page(address: str) -> None:
    parts = urlsplit(address)
    token = parts.path.strip("/")
    assert len(token) >= 32
    root = f"http://{parts.netloc}/"
    for path in ("", "sql", "run?id=run", "favicon.ico", token[:-1] + "/", token + "x/", "x/" + token + "/"):
        status, text, _ = answer(root, path)
        assert status == 403, path
        assert text == "The address needs the token that `igd view` has printed.\n"
    assert answer(address, host="evil.example:80")[0] == 403, "a name that leads here is another site"
    assert answer(address, host=f"localhost:{parts.port}")[0] == 200


def test_every_answer_forbids_to_load_anything_and_to_tell_the_address(address: str) -> None:
    for path in ("", "run?id=run", "compare?run=run&run=second", "images?id=run", "sql", "nothing", "run?id=none"):
        _, _, headers = answer(address, path)
        assert re.fullmatch(POLICY, headers["Content-Security-Policy"])
        assert (headers["Referrer-Policy"], headers["Cache-Control"]) == ("no-referrer", "no-store")


def test_it_only_reads(address: str, shown: Catalog) -> None:
    before = {file: file.stat().st_mtime_ns for file in shown.root.rglob("*")}
    for path in ("", "run?id=run", "compare?run=run&run=second", "images?id=run", "sql?file=table8"):
        assert answer(address, path)[0] == 200
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert answer(address, "sql", method=method)[0] == 405
    assert {file: file.stat().st_mtime_ns for file in shown.root.rglob("*")} == before


def test_what_is_not_there_is_said(address: str) -> None:
    for path, status, said in [
        ("nothing", 404, "There is no page &#39;nothing&#39;."),
        ("run?id=secnd", 400, "no run &#39;secnd&#39;"),
        ("run", 400, "no run is named"),
        ("sql?file=../x", 400, "no query &#39;../x&#39; ships"),
        ("run?id=" + quote("<script>alert(1)</script>"), 400, "&lt;script&gt;"),
    ]:
        found, text, _ = answer(address, path)
        assert (found, said in text) == (status, True), path
        assert "<script>alert" not in text


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_prints_its_address_and_ends_when_interrupted(shown: Catalog, number: int, code: int) -> None:
    """Also while a question is asked that takes longer than anybody waits."""
    process = subprocess.Popen(
        igd_command("view", "--catalog", str(shown.root)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = line.rpartition(" ")[2].strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", address), line
        assert answer(address)[0] == 200
        parts = urlsplit(address)
        _require_loopback_alone(process.pid, parts.port or 0)
        endless = urlencode({"sql": "SELECT count(*) FROM range(1000000000) a, range(1000000000) b"})
        with socket.create_connection((parts.hostname, parts.port)) as asking:
            asking.sendall(f"GET {parts.path}sql?{endless} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
            assert answer(address)[0] == 200, "others are answered meanwhile"
            process.send_signal(number)
            _, errors = process.communicate(timeout=30)
        assert process.returncode == code
        assert errors.splitlines()[-1] == f"igd: {shown} is shown no longer"
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="reads which addresses are listened on from Linux' /proc")
def _require_loopback_alone(pid: int, port: int) -> None:
    """Check that the process listens on that port of 127.0.0.1 and on no other address."""
    inodes = {link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir() if "socket" in str(link.readlink())}
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                listening.append(fields[1])
    assert listening == [f"0100007F:{port:04X}"]


def test_what_cannot_be_served_exits_2(tmp_path: Path, shown: Catalog, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", "--catalog", f"{tmp_path}/none"]) == 2
    assert main(["view", "--catalog", str(shown), "--port", "70000"]) == 2
    assert "--port must lie in 0…65535" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["view", "--catalog", str(shown), "--port", str(taken.getsockname()[1])]) == 2
    assert "leave it out to take a free one" in capsys.readouterr().err
