"""Made-up files served on the loopback, by the Hugging Face hub's rules and others, and how downloads fail."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "0" * 40

PAGE = b"<!DOCTYPE html><html><title>Sign in</title>Too many people have looked at this file.</html>"


@dataclass
class Hub:
    """What the server has and what it was asked.

    Attributes:
        files: contents by path, "timm/NAME/model.safetensors" or "datasets/OWNER/NAME/test.parquet" as on the hub, or
            what stands behind the host in an address.
        cut: paths whose transfer breaks in the middle, the first time each.
        pages: paths where a web page comes instead of the file.
        damaged: paths whose content is not what the server calls it by.
        asked: "METHOD path" of every request, in order, with the byte range where one was asked for.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    pages: set[str] = field(default_factory=set)
    damaged: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    address: str = ""


@contextmanager
def loopback_hub() -> Iterator[Hub]:
    """Serve a `Hub` while open."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_arguments: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._serve(body=False)

        def do_GET(self) -> None:
            self._serve(body=True)

        def _serve(self, *, body: bool) -> None:
            path = self.path.partition("?")[0].strip("/")
            asked_range = self.headers.get("Range", "")
            hub.asked.append(f"{self.command} {path} {asked_range}".strip())
            if path.startswith("api/") and "/tree/" in path:
                # Models stand at the root.
                self._tree(path.removeprefix("api/").removeprefix("models/").partition("/tree/")[0])
                return
            repository, _, rest = path.partition("/resolve/")
            name = f"{repository}/{rest.partition('/')[2]}" if rest else self.path.strip("/")
            if name in hub.pages:
                self._reply(200, PAGE, {"Content-Type": "text/html"}, body=body)
                return
            if name not in hub.files:
                self._reply(404, b"{}", {"X-Error-Code": "EntryNotFound", "Content-Type": "text/html"}, body=body)
                return
            content = hub.files[name]
            headers = {
                "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Repo-Commit": COMMIT,
                "Content-Type": "application/octet-stream",
                "Content-Disposition": 'attachment; filename="made-up"',
            }
            if self.headers.get("If-Range", headers["ETag"]) != headers["ETag"]:
                asked_range = ""
            start = int(asked_range.removeprefix("bytes=").partition("-")[0]) if asked_range else 0
            if name in hub.damaged:
                content = bytes(len(content))
            if asked_range:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            if body and name in hub.cut:
                hub.cut.remove(name)
                self._reply(200, content, headers, body=True, sent=len(content) // 2)
                self.close_connection = True
                return
            self._reply(206 if asked_range else 200, content[start:], headers, body=body)

        def _tree(self, repository: str) -> None:
            inside = [name for name in hub.files if name.startswith(repository + "/")]
            if not inside:
                self._reply(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body=True)
                return
            entries = [
                {
                    "type": "file",
                    "oid": COMMIT,
                    "size": len(hub.files[name]),
                    "path": name.removeprefix(repository + "/"),
                }
                for name in inside
            ]
            self._reply(200, json.dumps(entries).encode(), {"Content-Type": "application/json"}, body=True)

        def _reply(
            self, status: int, content: bytes, headers: dict[str, str], *, body: bool, sent: int | None = None
        ) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content[:sent])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
