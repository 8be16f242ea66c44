"""A hub on this machine: the part of huggingface.co's protocol that fetching files speaks."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest

COMMIT = "c" * 40
LFS_ENDINGS = (".safetensors", ".bin", ".pth", ".parquet", ".model", ".jsonl")


@dataclass
class Hub:
    """Repositories by `<kind>s/<owner>/<name>`, each with the files of its one commit.

    `gated`: repositories that want a login. `short`: files of which only so many bytes are sent, though all are
    announced. `plain`: files at addresses of their own. `asked`: the requests that came. `heads`: the newest commit
    of a repository where it is not COMMIT. `past`: the files of older commits. `moved`: old name -> new name.
    """

    url: str = ""
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    short: dict[str, int] = field(default_factory=dict)
    plain: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    heads: dict[str, str] = field(default_factory=dict)
    past: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)


def sibling(name: str, data: bytes) -> dict[str, Any]:
    """A file as the hub lists it."""
    blob = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
    entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": blob}
    if name.endswith(LFS_ENDINGS):
        entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def _send(self, status: int, body: bytes, short: int | None = None, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[:short])
                if short is not None and short < len(body):
                    self.close_connection = True

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlparse(self.path).path).strip("/")
            hub.asked.append((self.command, path, dict(self.headers)))
            if path in hub.plain:
                self._file(path, hub.plain[path], {})
                return
            api = path.startswith("api/")
            words = path.removeprefix("api/").split("/")
            kind = words.pop(0) if words[0] in ("models", "datasets") else "models"
            repo = f"{kind}/{'/'.join(words[:2])}"
            if repo in hub.moved:
                old, new = (name.partition("/")[2] for name in (repo, hub.moved[repo]))
                self._send(307, b"", Location=self.path.replace(old, new, 1))
                return
            if repo not in hub.repos:
                self._send(404, b"{}", X_Error_Code="RepoNotFound")
                return
            rest = words[2:]
            revision = rest[1] if len(rest) > 1 else "main"
            head = hub.heads.get(repo, COMMIT)
            if revision not in ("main", head) and (repo, revision) not in hub.past:
                self._send(404, b"{}", X_Error_Code="RevisionNotFound")
                return
            commit = head if revision == "main" else revision
            files = hub.repos[repo] if commit == head else hub.past[repo, commit]
            if api:
                listed = [sibling(name, data) for name, data in files.items()]
                about = {"id": "/".join(words[:2]), "sha": commit, "siblings": listed, "private": False, "tags": []}
                self._send(200, json.dumps(about).encode(), Content_Type="application/json")
                return
            if repo in hub.gated and not self.headers.get("Authorization"):
                self._send(401, b"{}", X_Error_Code="GatedRepo")
                return
            name = "/".join(rest[2:])
            if name not in files:
                self._send(404, b"{}", X_Error_Code="EntryNotFound")
                return
            entry = sibling(name, files[name])
            etag = entry["lfs"]["sha256"] if "lfs" in entry else entry["blobId"]
            self._file(name, files[name], {"ETag": f'"{etag}"', "X_Repo_Commit": commit})

        def _file(self, name: str, data: bytes, headers: dict[str, str]) -> None:
            start = 0
            if asked := self.headers.get("Range"):
                start = int(asked.removeprefix("bytes=").partition("-")[0])
                headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self._send(206 if start else 200, data[start:], hub.short.get(name), Accept_Ranges="bytes", **headers)

    return Handler


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers at `hub.url` until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that is asked instead of the real one, with no login and nothing fetched yet."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub
