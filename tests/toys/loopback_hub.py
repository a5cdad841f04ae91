"""A stand-in for the Hugging Face hub on the loopback: made-up files, and the ways in which downloads fail."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "0" * 40


@dataclass
class Hub:
    """What the server has and what it was asked.

    Attributes:
        files: contents by path, "timm/NAME/model.safetensors" or "datasets/OWNER/NAME/test.parquet".
        cut: paths whose transfer breaks in the middle, the first time each.
        asked: "METHOD path" of every request, in order, with the byte range where one was asked for.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
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
            if path.startswith("api/datasets/") and "/tree/" in path:
                self._tree(path.removeprefix("api/").partition("/tree/")[0])
                return
            repository, _, rest = path.partition("/resolve/")
            name = f"{repository}/{rest.partition('/')[2]}"
            if name not in hub.files:
                self._reply(404, b"{}", {"X-Error-Code": "EntryNotFound"}, body=body)
                return
            content = hub.files[name]
            start = int(asked_range.removeprefix("bytes=").partition("-")[0]) if asked_range else 0
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
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
