"""A hub on this machine: the endpoints that huggingface_hub calls to make, fill and fetch a repository of a model.

It keeps repositories in memory and speaks to the real client over HTTP, so that tests take the path that users take.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_secretOfTheTest5f2c"
"""The only token that may write, and read what is private or gated."""


@dataclass
class Repository:
    private: bool = False
    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def at(self, revision: str) -> tuple[str, dict[str, bytes]]:
        """Hash and files of a branch or a commit."""
        sha = self.branches.get(revision, revision)
        return sha, self.commits[sha]

    def commit(self, branch: str, files: dict[str, bytes], message: str = "", deleted: Collection[str] = ()) -> str:
        earlier = self.commits.get(self.branches.get(branch, ""), {})
        before = {name: content for name, content in earlier.items() if name not in deleted}
        self.messages.append(message)
        sha = hashlib.sha1(f"{branch}{len(self.messages)}".encode()).hexdigest()
        self.branches[branch], self.commits[sha] = sha, {**before, **files}
        return sha


class Hub:
    """`url` is its address, `repositories` what it holds, `fetched` the paths of files that were asked for."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.uploaded: dict[str, bytes] = {}
        self.fetched: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def add(self, name: str, files: dict[str, bytes], **flags: bool) -> Repository:
        self.repositories[name] = Repository(**flags)
        self.repositories[name].commit("main", files)
        return self.repositories[name]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    # Each answers (status, headers, body) to a request of one kind.

    def create(self, body: dict[str, Any], **_: Any) -> Any:
        name = f"{body['organization'] or 'me'}/{body['name']}"
        if name in self.repositories:
            return 409, {}, {"error": "it exists", "url": f"{self.url}/{name}"}
        private = body.get("private") is True or body.get("visibility") == "private"  # huggingface_hub 1 and 2
        self.add(name, {".gitattributes": b""}, private=private)
        return 200, {}, {"url": f"{self.url}/{name}"}

    def validate(self, body: dict[str, Any], **_: Any) -> Any:
        front = yaml.safe_load(body["content"].split("---\n")[1])
        assert isinstance(front["tags"], list) and isinstance(front["license"], str), front
        return 200, {}, {"warnings": [], "errors": []}

    def preupload(self, body: dict[str, Any], **_: Any) -> Any:
        modes = [("lfs" if one["path"].endswith(".safetensors") else "regular") for one in body["files"]]
        answer = [{"path": one["path"], "uploadMode": mode, "shouldIgnore": False}
                  for one, mode in zip(body["files"], modes, strict=True)]  # fmt: skip
        return 200, {}, {"files": answer}

    def batch(self, body: dict[str, Any], **_: Any) -> Any:
        upload = [{**one, "actions": {"upload": {"href": f"{self.url}/lfs/{one['oid']}"}}} for one in body["objects"]]
        return 200, {}, {"transfer": "basic", "objects": upload}

    def upload(self, body: bytes, oid: str, **_: Any) -> Any:
        self.uploaded[hashlib.sha256(body).hexdigest()] = body
        return 200, {}, {}

    def branch(self, repo: Repository, rev: str, **_: Any) -> Any:
        if rev in repo.branches:
            return 409, {}, {"error": "it exists"}
        repo.branches[rev] = repo.branches["main"]
        return 200, {}, {}

    def commit(self, repo: Repository, name: str, rev: str, body: list[Any], query: dict[str, Any], **_: Any) -> Any:
        values = [line["value"] for line in body]
        files = {one["path"]: base64.b64decode(one["content"]) if "content" in one else self.uploaded[one["oid"]]
                 for line, one in zip(body[1:], values[1:], strict=True) if line["key"] != "deletedFile"}  # fmt: skip
        deleted = [line["value"]["path"] for line in body if line["key"] == "deletedFile"]
        proposed = "create_pr" in query
        if proposed:
            repo.branches["refs/pr/1"] = repo.branches[rev]
        sha = repo.commit("refs/pr/1" if proposed else rev, files, values[0]["summary"], deleted)
        answer = {"commitUrl": f"{self.url}/{name}/commit/{sha}", "commitOid": sha}
        return 200, {}, {**answer, "pullRequestUrl": f"{self.url}/{name}/discussions/1" if proposed else None}

    def info(self, repo: Repository, name: str, rev: str = "main", **_: Any) -> Any:
        if rev not in {*repo.branches, *repo.commits}:
            return 404, {"X-Error-Code": "RevisionNotFound"}, {}
        sha, files = repo.at(rev)
        return 200, {}, {"id": name, "sha": sha, "siblings": [{"rfilename": path} for path in files]}

    def tree(self, repo: Repository, rev: str, **_: Any) -> Any:
        return 200, {}, [{"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                         for path, content in repo.at(rev)[1].items()]  # fmt: skip

    def resolve(self, repo: Repository, rev: str, path: str, allowed: bool, **_: Any) -> Any:
        if repo.gated and not allowed:
            return 403, {"X-Error-Code": "GatedRepo"}, {}
        self.fetched.append(path)
        sha, files = repo.at(rev)
        if path not in files:
            return 404, {"X-Error-Code": "EntryNotFound"}, {}
        return 200, {"ETag": f'"{hashlib.sha1(files[path]).hexdigest()}"', "X-Repo-Commit": sha}, files[path]


ROUTES = [
    ("POST", r"/api/repos/create", Hub.create),
    ("POST", r"/api/validate-yaml", Hub.validate),
    ("POST", r"/api/models/(?P<name>[^/]+/[^/]+)/preupload/(?P<rev>[^/]+)", Hub.preupload),
    ("POST", r"/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", Hub.batch),
    ("PUT", r"/lfs/(?P<oid>\w+)", Hub.upload),
    ("POST", r"/api/models/(?P<name>[^/]+/[^/]+)/branch/(?P<rev>[^/]+)", Hub.branch),
    ("POST", r"/api/models/(?P<name>[^/]+/[^/]+)/commit/(?P<rev>[^/]+)", Hub.commit),
    ("GET", r"/api/models/(?P<name>[^/]+/[^/]+)", Hub.info),
    ("GET", r"/api/models/(?P<name>[^/]+/[^/]+)/revision/(?P<rev>[^/]+)", Hub.info),
    ("GET", r"/api/models/(?P<name>[^/]+/[^/]+)/tree/(?P<rev>[^/]+)", Hub.tree),
    ("GET", r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<path>.+)", Hub.resolve),
]  # fmt: skip


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def _content(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content

        def _answer(self) -> tuple[int, dict[str, str], Any]:
            url = urlsplit(self.path)
            body: Any = self._content()
            if self.headers.get("Content-Type", "").endswith("ndjson"):
                body = [json.loads(line) for line in body.splitlines()]
            elif "json" in self.headers.get("Content-Type", ""):
                body = json.loads(body)
            allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            for method, pattern, answer in ROUTES:
                asked = "GET" if self.command == "HEAD" else self.command
                if asked == method and (found := re.fullmatch(pattern, url.path)):
                    words = {name: unquote(value) for name, value in found.groupdict().items()}
                    return self._route(answer, words, body, allowed, url)
            raise AssertionError(f"{self.command} {self.path} is not spoken here")

        def _route(self, answer: Callable[..., Any], words: dict[str, str], body: Any, allowed: bool, url: Any) -> Any:
            repo = hub.repositories.get(words.get("name", ""))
            if "name" in words and (repo is None or (repo.private and not allowed)):
                return 404 if allowed else 401, {"X-Error-Code": "RepoNotFound"}, {}
            if self.command == "POST" and not allowed:
                return 401, {}, {"error": "Invalid username or password."}
            return answer(hub, repo=repo, body=body, allowed=allowed, query=parse_qs(url.query), **words)

        def handle_request(self) -> None:
            status, headers, body = self._answer()
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = handle_request

    return Handler
