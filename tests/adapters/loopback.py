"""HTTP servers on loopback: of files, and a stand-in for the Hugging Face hub."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Answer:
    """An answer of HTTP. `length` is what it states, -1 nothing; it may be false."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    repeat: int = 1
    length: int | None = None


@dataclass
class Server:
    """`seen` are the method, path and headers of each request."""

    url: str
    seen: list[tuple[str, str, dict[str, str]]]

    @property
    def paths(self) -> list[str]:
        return [path for _, path, _ in self.seen]


@contextmanager
def serving(answer: Callable[[str], Answer]) -> Iterator[Server]:
    """A server on a port of its own; `answer` is asked with the path."""
    seen: list[tuple[str, str, dict[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            seen.append((self.command, path, {k.lower(): v for k, v in self.headers.items()}))
            reply = answer(path)
            self.send_response(reply.status)
            length = len(reply.body) * reply.repeat if reply.length is None else reply.length
            stated = {"Content-Length": str(length)} if length >= 0 else {}
            for name, value in (stated | dict(reply.headers)).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                try:
                    for _ in range(reply.repeat):
                        self.wfile.write(reply.body)
                except OSError:
                    pass  # the client had enough

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield Server(f"http://127.0.0.1:{server.server_address[1]}", seen)
        finally:
            server.shutdown()
            thread.join()


def files(content: Mapping[str, bytes | Answer]) -> Callable[[str], Answer]:
    """Answers with these, by path, and with 404 for all others."""

    def answer(path: str) -> Answer:
        found = content.get(path, Answer(b"no such file", 404))
        return Answer(found) if isinstance(found, bytes) else found

    return answer


@dataclass(frozen=True)
class Repository:
    """One model repository of the hub: its revisions, each a commit with files."""

    revisions: Mapping[str, Files]
    stated_size: int | None = None

    def commit(self, revision: str) -> str | None:
        for name, content in self.revisions.items():
            commit = hashlib.sha1(repr(sorted(content.items())).encode()).hexdigest()
            if revision in (name, commit):
                return commit
        return None

    def at(self, revision: str) -> Files:
        found = [f for name, f in self.revisions.items() if self.commit(name) == revision]
        return found[0] if found else {}


def hub(repositories: Mapping[str, Repository]) -> Callable[[str], Answer]:
    """What the hub's API answers: the information of a revision, and its files.

    As on the hub, weights are not sent by the resolver, but by the storage that it redirects to.
    """

    def info(name: str, revision: str) -> Answer:
        repository = repositories.get(name)
        if repository is None:
            return Answer(b"{}", 404, {"X-Error-Code": "RepoNotFound"})
        commit = repository.commit(revision)
        if commit is None:
            return Answer(b"{}", 404, {"X-Error-Code": "RevisionNotFound"})
        size = repository.stated_size
        siblings = [
            {"rfilename": name, "size": len(data) if size is None else size}
            for name, data in repository.at(commit).items()
        ]
        return Answer(json.dumps({"id": name, "sha": commit, "siblings": siblings}).encode())

    def file(name: str, commit: str, path: str, *, stored: bool) -> Answer:
        data = repositories[name].at(commit).get(path)
        if data is None:
            return Answer(b"", 404, {"X-Error-Code": "EntryNotFound"})
        etag = hashlib.sha256(data).hexdigest()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}
        if path.endswith(".safetensors") and not stored:
            linked = {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{etag}"'}
            location = f"/storage/{name}/{commit}/{path}"
            return Answer(b"", 302, headers | linked | {"Location": location})
        return Answer(data, 200, headers)

    def answer(path: str) -> Answer:
        match path.strip("/").split("/"):
            case ["api", "models", org, name, "revision", *revision]:
                return info(f"{org}/{name}", "/".join(revision))
            case ["api", "models", org, name]:
                return info(f"{org}/{name}", "main")
            case [org, name, "resolve", commit, *rest]:
                return file(f"{org}/{name}", commit, "/".join(rest), stored=False)
            case ["storage", org, name, commit, *rest]:
                return file(f"{org}/{name}", commit, "/".join(rest), stored=True)
        return Answer(b"", 404)

    return answer
