"""A small Hugging Face Hub in memory, for the tests: the part of the protocol that downloading and publishing need.

Repositories have commits, branches and tags; files are served by themselves or, like weights on the real one, from
a second host name by a redirect; uploads go through the large-file store. Any request can be made to fail:

    with HubServer() as hub:
        commit = hub.commit("convzoo/lenet5.mnist", {"config.json": b"{}", "model.safetensors": weights})
        hub.fault("GET", "/cdn/", drop_after=1000, times=1)
        os.environ["HF_ENDPOINT"] = hub.url

What a fault may do: ``status`` (with ``body``, ``headers``), ``reset`` (close the door at once), ``delay`` (seconds),
``call`` (a function, before the answer), ``set`` (headers of an otherwise right answer; None: left out), ``drip``
(seconds between the single bytes of a header that never ends), ``raw`` (bytes instead of an answer), and to the bytes
of a file ``drop_after`` (cut; ``graceful`` for an orderly end), ``stall_after``, ``rate`` (bytes a second), ``corrupt``
(flip the byte at that place), ``truncate``, ``replace``, ``no_range``, ``gzip``, ``endless`` (bytes after the right
ones, until the client leaves).
"""

from __future__ import annotations

import base64
import contextlib
import functools
import gzip
import hashlib
import json
import re
import socket
import sys
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
TOKENS = {"hf_good": "alice"}


@dataclass
class Blob:
    """A file's content and the two hashes the Hub knows it by."""

    data: bytes
    lfs: bool

    @functools.cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @functools.cached_property
    def sha1(self) -> str:
        data = self.data
        if self.lfs:
            data = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (
                self.sha256.encode(),
                len(data),
            )
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.sha1


@dataclass
class Repo:
    id: str
    private: bool = False
    gated: tuple[str, ...] | None = None  # the users that may read, if not everybody may
    disabled: bool = False
    trees: dict[str, dict[str, Blob]] = field(default_factory=dict)  # by commit
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def resolve(self, revision: str) -> str | None:
        if revision in self.trees:
            return revision
        return self.branches.get(revision) or self.tags.get(revision)


@dataclass
class Fault:
    method: str
    pattern: str
    times: int
    skip: int
    options: dict[str, Any]


class QuietServer(ThreadingHTTPServer):
    """One that says nothing of clients that leave in the middle: here they are meant to."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class HubServer:
    """Serves :attr:`url` while it is entered."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.store: dict[str, bytes] = {}  # large files by sha256
        self.faults: list[Fault] = []
        self.log: list[dict[str, Any]] = []
        self.lock = threading.RLock()
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self.servers = [QuietServer(("127.0.0.1", 0), handler) for _ in range(2)]
        self.url = f"http://127.0.0.1:{self.servers[0].server_address[1]}"
        # another host name, as on the real one: the client follows redirects within one host, and would then look
        # for the commit in the second answer
        self.cdn_url = f"http://localhost:{self.servers[1].server_address[1]}"

    def __enter__(self) -> HubServer:
        self.threads = [
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True) for server in self.servers
        ]
        for server, thread in zip(self.servers, self.threads, strict=True):
            server.daemon_threads = True
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()
        for thread in self.threads:
            thread.join()

    def repo(self, repo_id: str, **changes: Any) -> Repo:
        """The repository, made if need be, with the fields given set."""
        with self.lock:
            repo = self.repos.setdefault(repo_id, Repo(repo_id))
            for key, value in changes.items():
                setattr(repo, key, value)
            return repo

    def commit(
        self, repo_id: str, files: dict[str, bytes | str], *, branch: str = "main", delete: tuple[str, ...] = ()
    ) -> str:
        """Commit files to a branch; the commit's hash."""
        with self.lock:
            repo = self.repo(repo_id)
            parent = repo.branches.get(branch)
            tree = {path: blob for path, blob in repo.trees.get(parent or "", {}).items() if path not in delete}
            for path, data in files.items():
                blob = Blob(data.encode() if isinstance(data, str) else data, path.endswith(LFS_SUFFIXES))
                tree[path] = blob
                if blob.lfs:
                    self.store[blob.sha256] = blob.data
            content = sorted((path, blob.sha256) for path, blob in tree.items())
            commit = hashlib.sha1(json.dumps([parent, len(repo.trees), content]).encode()).hexdigest()
            repo.trees[commit] = tree
            repo.branches[branch] = commit
            return commit

    def files(self, repo_id: str, branch: str = "main") -> dict[str, bytes]:
        """The files of a branch."""
        repo = self.repos[repo_id]
        return {path: blob.data for path, blob in repo.trees[repo.branches[branch]].items()}

    def fault(self, method: str, pattern: str, *, times: int = 1 << 30, skip: int = 0, **options: Any) -> None:
        """Make requests whose path matches ``pattern`` fail, after ``skip`` and up to ``times`` of them."""
        with self.lock:
            self.faults.append(Fault(method, pattern, times, skip, options))

    def clear(self) -> None:
        """Forget faults and the log."""
        with self.lock:
            self.faults.clear()
            self.log.clear()

    def requests(self, method: str = "", pattern: str = "") -> list[dict[str, Any]]:
        """The requests seen, of one method and with a path that matches."""
        with self.lock:
            return [
                entry for entry in self.log if method in ("", entry["method"]) and re.search(pattern, entry["path"])
            ]


def point_client_at(url: str, monkeypatch: Any) -> None:
    """Make ``url`` the Hub, for a client that read its settings when it was imported."""
    from huggingface_hub import constants, file_download

    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    if hasattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE"):  # versions before 1.0 keep a copy of it
        monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template)


class Handler(BaseHTTPRequestHandler):
    hub: HubServer
    disable_nagle_algorithm = True  # else headers and body, written one after the other, wait 40 ms for each other
    protocol_version = "HTTP/1.1"
    fault: dict[str, Any] = {}

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def dispatch(self) -> None:
        self.body: bytes | None = None
        url = urllib.parse.urlsplit(self.path)
        entry = {
            "method": self.command,
            "path": self.path,
            "range": self.headers.get("Range"),
            "user_agent": self.headers.get("User-Agent"),
            "token": self.headers.get("Authorization"),
        }
        with self.hub.lock:
            self.hub.log.append(entry)
            self.fault = {}
            for fault in self.hub.faults:
                if fault.method in (self.command, "*") and re.search(fault.pattern, self.path) and fault.times > 0:
                    if fault.skip > 0:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    self.fault = fault.options
                    break
        self.fault.get("call", lambda: None)()
        time.sleep(self.fault.get("delay", 0))
        if "drip" in self.fault:
            self.drip(self.fault["drip"])
        elif "raw" in self.fault:
            self.read_body()
            self.close_connection = True
            self.wfile.write(self.fault["raw"])
        elif self.fault.get("reset"):
            self.read_body()
            self.slam()
        elif "status" in self.fault:
            self.read_body()
            self.reply(self.fault["status"], self.fault.get("body", b""), self.fault.get("headers"))
        else:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.route(url.path)
                return
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = dispatch  # noqa: N815 - the names that http.server calls

    def route(self, path: str) -> None:
        for methods, pattern, function in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in methods.split("|"):
                function(self, **{key: urllib.parse.unquote(value) for key, value in match.groupdict().items()})
                return
        self.read_body()
        self.refuse(404, "", "Not Found")

    # -- plumbing

    def read_body(self) -> bytes:
        if self.body is not None:
            return self.body
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            self.body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                self.body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return self.body

    def slam(self) -> None:
        """Close the connection with a reset."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.connection.close()

    def drip(self, pause: float) -> None:
        """Begin an answer and never end it."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 500:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(pause)

    def send_header(self, keyword: str, value: str) -> None:
        if keyword not in self.fault.get("set", {}):
            super().send_header(keyword, value)

    def end_headers(self) -> None:
        for keyword, value in self.fault.get("set", {}).items():
            if value is not None:
                super().send_header(keyword, value)
        super().end_headers()

    def reply(self, status: int, body: Any = b"", headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in {
            "Content-Length": str(len(data)),
            "Content-Type": "application/json",
            **(headers or {}),
        }.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        self.read_body()
        named = {"X-Error-Code": code} if code else {}
        self.reply(status, {"error": message}, {"X-Error-Message": message, **named, **(headers or {})})

    def user(self) -> str | None:
        return TOKENS.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))

    def find(self, repo_id: str, *, write: bool = False) -> Repo | None:
        """The repository, or None once the refusal is answered."""
        if self.headers.get("Authorization") and not self.user():
            return self.refuse(401, "", "Invalid credentials in Authorization header")
        repo = self.hub.repos.get(repo_id)
        if repo is None or (repo.private and not self.user()):
            return self.refuse(404 if self.user() else 401, "RepoNotFound", "Repository not found")
        if write and not self.user():
            return self.refuse(401, "", "Invalid username or password.")
        if repo.disabled:
            return self.refuse(403, "", "Access to this resource is disabled.")
        return repo

    def find_file(self, repo_id: str, revision: str, path: str) -> tuple[str, Blob] | None:
        repo = self.find(repo_id)
        if repo is None:
            return None
        if repo.gated is not None and self.user() not in repo.gated:
            return self.refuse(403 if self.user() else 401, "GatedRepo", f"Access to model {repo_id} is restricted.")
        commit = repo.resolve(revision)
        if commit is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        blob = repo.trees[commit].get(path)
        if blob is None:
            return self.refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        return commit, blob

    def send_file(self, data: bytes, etag: str, headers: dict[str, str] | None = None) -> None:
        """The bytes, or the range asked for, with whatever the fault does to them."""
        fault, size = self.fault, len(data)
        status, body, sent = 200, data, {"ETag": f'"{etag}"', "Accept-Ranges": "bytes", **(headers or {})}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", (self.headers.get("Range") or "").strip())
        if asked and not fault.get("no_range"):
            start, end = int(asked[1]), min(int(asked[2] or size), size - 1)
            if start >= size:
                return self.reply(416, b"", {"Content-Range": f"bytes */{size}"})
            status, body = 206, data[start : end + 1]
            sent["Content-Range"] = f"bytes {start}-{end}/{size}"
        if "corrupt" in fault:
            place = fault["corrupt"] % len(body)
            body = body[:place] + bytes([body[place] ^ 0xFF]) + body[place + 1 :]
        body = fault.get("replace", body)[: fault.get("truncate")]
        if "gzip" in fault and self.command == "GET":
            body = gzip.compress(body)
            sent["Content-Encoding"] = "gzip"
        self.send_response(status)
        for key, value in {**sent, "Content-Length": str(len(body))}.items():
            if not (key == "Content-Length" and "endless" in fault):
                self.send_header(key, value)
        if "endless" in fault:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return None
        if "endless" in fault:
            self.close_connection = True
            with contextlib.suppress(OSError):
                for _ in range(1 << 12):  # 256 MB, should nobody stop it
                    self.wfile.write(body[: 1 << 16].ljust(1 << 16, b"x"))
            return None
        if "drop_after" in fault:
            self.wfile.write(body[: fault["drop_after"]])
            self.wfile.flush()
            time.sleep(0.05)
            if not fault.get("graceful"):
                return self.slam()
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        if "stall_after" in fault:
            self.wfile.write(body[: fault["stall_after"]])
            self.wfile.flush()
            time.sleep(fault.get("stall", 5))
            return self.slam()
        step = max(1, int(fault["rate"] * 0.05)) if "rate" in fault else max(1, len(body))
        for place in range(0, len(body), step):
            self.wfile.write(body[place : place + step])
            self.wfile.flush()
            time.sleep(0.05 if "rate" in fault else 0)
        return None

    # -- reading

    def resolve(self, repo_id: str, revision: str, path: str) -> None:
        if found := self.find_file(repo_id, revision, path):
            commit, blob = found
            headers = {"X-Repo-Commit": commit}
            if blob.lfs:
                headers |= {"X-Linked-Size": str(len(blob.data)), "X-Linked-ETag": f'"{blob.sha256}"'}
                headers |= {"Location": f"{self.hub.cdn_url}/cdn/{blob.sha256}?Signature=x", "ETag": '"0"'}
                return self.reply(302, b"Found", headers)
            self.send_file(blob.data, blob.etag, headers)
        return None

    def cdn(self, sha256: str) -> None:
        self.send_file(self.hub.store[sha256], "0")

    def info(self, repo_id: str, revision: str = "main") -> None:
        if repo := self.find(repo_id):
            commit = repo.resolve(revision)
            if commit is None:
                return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            files = [{"rfilename": path} for path in sorted(repo.trees[commit])]
            self.reply(200, {"_id": "0" * 24, "id": repo_id, "sha": commit, "siblings": files, "tags": []})
        return None

    # -- publishing

    def create(self) -> None:
        asked = json.loads(self.read_body())
        if not self.user():
            return self.refuse(401, "", "Invalid username or password.")
        repo_id = f"{asked.get('organization') or self.user()}/{asked['name']}"
        url = f"{self.hub.url}/{repo_id}"
        if repo_id in self.hub.repos:
            return self.reply(409, {"error": "You already created this model repo", "url": url})
        self.hub.repo(repo_id, private=bool(asked.get("private")) or asked.get("visibility") == "private")
        self.hub.commit(repo_id, {".gitattributes": "*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        return self.reply(200, {"url": url})

    def validate_yaml(self) -> None:
        import yaml

        content = json.loads(self.read_body())["content"]
        front = re.match(r"\s*---\r?\n(.*?)\r?\n---", content, re.S)
        try:
            meta = yaml.safe_load(front[1]) if front else {}
        except yaml.YAMLError as error:
            return self.reply(400, {"errors": [{"message": f"YAML: {error}"}], "warnings": []})
        errors = [
            {"message": f'"model-index[0].results[{index}].{key}" is required'}
            for model in meta.get("model-index") or []
            for index, result in enumerate(model.get("results") or [])
            for key in ("task", "dataset", "metrics")
            if key not in result
        ]
        return self.reply(400 if errors else 200, {"errors": errors, "warnings": []})

    def preupload(self, repo_id: str, revision: str) -> None:
        asked = json.loads(self.read_body())
        if repo := self.find(repo_id, write=True):
            tree = repo.trees[repo.branches[revision]]
            files = []
            for file in asked["files"]:
                mode = "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular"
                known = {"oid": tree[file["path"]].etag} if file["path"] in tree else {}
                files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, **known})
            self.reply(200, {"files": files, "commitOid": repo.branches[revision]})

    def lfs_batch(self, repo_id: str) -> None:
        asked = json.loads(self.read_body())
        if not self.find(repo_id, write=True):
            return
        objects = []
        for item in asked["objects"]:
            upload = {"href": f"{self.hub.url}/lfs/upload/{item['oid']}", "header": {}}
            verify = {"href": f"{self.hub.url}/lfs/verify", "header": {}}
            needed = {} if item["oid"] in self.hub.store else {"actions": {"upload": upload, "verify": verify}}
            objects.append({"oid": item["oid"], "size": item["size"], **needed})
        self.reply(200, {"transfer": "basic", "objects": objects})

    def lfs_upload(self, sha256: str) -> None:
        data = self.read_body()
        if hashlib.sha256(data).hexdigest() != sha256:
            return self.reply(400, b"checksum mismatch")
        self.hub.store[sha256] = data
        return self.reply(200)

    def lfs_verify(self) -> None:
        asked = json.loads(self.read_body())
        self.reply(200 if len(self.hub.store.get(asked["oid"], b"")) == asked["size"] else 404, {})

    def commit(self, repo_id: str, revision: str) -> None:
        lines = [json.loads(line) for line in self.read_body().splitlines() if line.strip()]
        if not self.find(repo_id, write=True):
            return
        files: dict[str, bytes | str] = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.store[value["oid"]]
        pull = "create_pr=1" in urllib.parse.urlsplit(self.path).query
        branches = self.hub.repo(repo_id).branches
        if pull:
            number = sum(name.startswith("refs/pr/") for name in branches) + 1
            branches[f"refs/pr/{number}"] = branches[revision]
            revision = f"refs/pr/{number}"
        commit = self.hub.commit(repo_id, files, branch=revision)
        url = f"{self.hub.url}/{repo_id}/commit/{commit}"
        discussion = f"{self.hub.url}/{repo_id}/discussions/{revision.rpartition('/')[2]}" if pull else None
        self.reply(200, {"success": True, "commitOid": commit, "commitUrl": url, "pullRequestUrl": discussion})

    def create_branch(self, repo_id: str, branch: str) -> None:
        self.read_body()
        if repo := self.find(repo_id, write=True):
            if branch in repo.branches:
                return self.refuse(409, "", "Reference already exists")
            repo.branches[branch] = repo.branches["main"]
            self.reply(200)
        return None


ID = r"(?P<repo_id>[^/]+/[^/]+)"
REVISION = r"(?P<revision>[^/]+)"
ROUTES = (
    ("GET", rf"/api/models/{ID}/revision/{REVISION}", Handler.info),
    ("POST", rf"/api/models/{ID}/preupload/{REVISION}", Handler.preupload),
    ("POST", rf"/api/models/{ID}/commit/{REVISION}", Handler.commit),
    ("GET", rf"/api/models/{ID}", Handler.info),
    ("POST", rf"/api/models/{ID}/branch/(?P<branch>.+)", Handler.create_branch),
    ("POST", r"/api/repos/create", Handler.create),
    ("POST", r"/api/validate-yaml", Handler.validate_yaml),
    ("POST", rf"/{ID}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", r"/lfs/upload/(?P<sha256>[0-9a-f]{64})", Handler.lfs_upload),
    ("POST", r"/lfs/verify", Handler.lfs_verify),
    ("GET|HEAD", r"/cdn/(?P<sha256>[0-9a-f]{64})", Handler.cdn),
    ("GET|HEAD", rf"/{ID}/resolve/{REVISION}/(?P<path>.+)", Handler.resolve),
)
