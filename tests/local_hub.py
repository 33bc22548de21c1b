"""A hub of our own on this machine, that models and data sets are fetched from and pushed to, with faults."""

import base64
import contextlib
import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants

LARGE = 20_000  # bytes beyond which a file is uploaded by itself
FAULTLESS: dict[str, Any] = {}


class Hub(ThreadingHTTPServer):
    """org/tiny, a model and a data set. `fault` is asked before every answer: it gives a status, may sleep, or changes the content."""

    daemon_threads = True

    def __init__(self, model: Path | None, rows: bytes):
        """Without a model there is no such repository until one is pushed."""
        super().__init__(("127.0.0.1", 0), Answer)
        held = {path.name: path.read_bytes() for path in model.iterdir() if path.is_file()} if model is not None else {}
        self.files = {"models": held, "datasets": {"a.jsonl": rows}}
        self.private: bool | None = None if model is None else False
        self.commits = 0
        self.large: dict[str, bytes] = {}  # uploaded content by its SHA-256
        self.fault: Callable[[str, Counter[str]], int | None] = lambda path, seen: None
        self.content: Callable[[bytes], bytes] = lambda content: content
        self.seen: Counter[str] = Counter()

    @property
    def sha(self) -> str:
        return f"{self.commits:010d}" * 4

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        """Also HEAD and POST: what a client of the hub asks of a repository and its files."""
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        hub, words = self.server, path.strip("/").split("/")
        hub.seen[path] += 1
        status = hub.fault(path, hub.seen)
        if status is not None:
            return self.answer(status, b"{}", {"X-Error-Code": "RepoNotFound"} if status == 404 else {})
        kind = "datasets" if "datasets" in words[:2] else "models"
        files = hub.files[kind]
        if self.command in ("POST", "PUT") and (done := self.receive(words, content)) is not None:
            return self.answer(200, json.dumps(done).encode())
        if kind == "models" and hub.private is None:
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if "resolve" in words:
            return self.answer(200, files.get(words[-1]), {"ETag": f'"{oid(files.get(words[-1], b""))}"', "X-Repo-Commit": hub.sha})
        if "tree" in words or "paths-info" in words:
            entries = [{"type": "file", "oid": oid(content), "size": len(content), "path": name} for name, content in files.items()]
            if "paths-info" in words:
                entries = [entry for entry in entries if str(entry["path"]) in content.decode()]
            return self.answer(200, json.dumps(entries).encode())
        about = {"id": "org/tiny", "sha": hub.sha, "siblings": [{"rfilename": name} for name in files], "gated": False, "tags": []}
        about |= {"private": kind == "models" and hub.private, "downloads": 0, "likes": 0}
        return self.answer(200, json.dumps(about).encode())

    do_HEAD = do_POST = do_PUT = do_GET

    def receive(self, words: list[str], content: bytes) -> dict[str, Any] | None:
        """Take part in a push: the repository, how each file is sent, large files, the commit; None: no push."""
        hub, files = self.server, self.server.files["models"]
        if words[0] == "large":
            hub.large[hashlib.sha256(content).hexdigest()] = content
            return {}
        if words[:2] == ["api", "validate-yaml"]:
            return {"warnings": [], "errors": []}
        if words[:3] == ["api", "repos", "create"]:
            asked_for = json.loads(content)
            hub.private = asked_for.get("private", asked_for.get("visibility") == "private")
            return {"url": f"{hub.url}/org/tiny"}
        if "preupload" in words:
            asked = [(one["path"], one["size"]) for one in json.loads(content)["files"]]
            ways = [{"path": path, "uploadMode": "lfs" if size > LARGE else "regular", "shouldIgnore": False} for path, size in asked]
            return {"files": [way | ({"oid": remote_oid(files[way["path"]])} if way["path"] in files else {}) for way in ways]}
        if words[-1] == "batch":
            asked = [(one["oid"], one["size"]) for one in json.loads(content)["objects"]]
            links = {name: {"actions": {"upload": {"href": f"{hub.url}/large/{name}"}}} for name, _ in asked if name not in hub.large}
            return {"transfer": "basic", "objects": [{"oid": name, "size": size, **links.get(name, {})} for name, size in asked]}
        if "commit" not in words:
            return None
        for line in map(json.loads, content.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        hub.commits += 1
        return {"commitUrl": f"{hub.url}/org/tiny/commit/{hub.sha}", "commitOid": hub.sha}

    def answer(self, status: int, content: bytes | None, headers: dict[str, str] = FAULTLESS) -> None:
        if content is None:
            return self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.server.content(content) if "resolve" in self.path else content)
        self.close_connection = True

    def log_message(self, *words: object) -> None:
        """Say nothing."""


def remote_oid(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if len(content) > LARGE else oid(content)


def oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextlib.contextmanager
def serving(model: Path | None, rows: bytes = b"") -> Iterator[Hub]:
    """The hub at work."""
    server = Hub(model, rows)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def ask(hub: Hub, folder: Path) -> Callable[[], None]:
    """Before a run: this is the hub, its caches are below the folder, and waiting is short."""

    def before() -> None:
        constants = huggingface_hub.constants
        constants.HF_HUB_DISABLE_XET = True
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = datasets.config.HF_DATASETS_OFFLINE = False
        constants.ENDPOINT = datasets.config.HF_ENDPOINT = hub.url
        constants.HUGGINGFACE_CO_URL_TEMPLATE = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        constants.HF_HUB_CACHE = str(folder / "hub")
        constants.HF_HUB_ETAG_TIMEOUT = constants.HF_HUB_DOWNLOAD_TIMEOUT = 1
        datasets.config.HF_DATASETS_CACHE = folder / "datasets"
        os.environ["TFKIT_CACHE"] = str(folder / "cache")

    return before
