"""A small Hub on this machine: the endpoints that `huggingface_hub` calls to push and load, kept in memory."""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

USER = "me"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass
class Repo:
    """One repository.

    Attributes:
        branches: per branch, the files by path.
        commits: what was committed, oldest first, as `{"branch", "summary", "paths"}`.
        private: as asked for when it was made.
    """

    branches: dict = field(default_factory=lambda: {"main": {}})
    commits: list = field(default_factory=list)
    private: bool = False

    def sha(self, branch: str) -> str:
        """The commit that a branch points to."""
        contents = sorted(self.branches[branch].items())
        return hashlib.sha1(repr((branch, contents)).encode()).hexdigest()

    def branch_of(self, revision: str) -> str | None:
        """The branch of that name, or the one that points to that commit."""
        matching = [branch for branch in self.branches if revision in (branch, self.sha(branch))]
        return matching[0] if matching else None


class HubServer:
    """Runs while it is used as a context manager.

    Args:
        lfs_suffixes: files that the server wants by git-lfs, as the real Hub wants weights; the others come inline.
    """

    def __init__(self, lfs_suffixes: tuple[str, ...] = ()):
        self.lfs_suffixes = lfs_suffixes
        self.repos: dict[str, Repo] = {}
        self.lfs_objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        handler = type("Handler", (HubHandler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()

    def put(self, repo_id: str, files: dict[str, bytes]) -> None:
        """Make a repository with these files, or change some of one."""
        self.repos.setdefault(repo_id, Repo()).branches["main"].update(files)

    def files(self, repo_id: str, branch: str = "main") -> dict[str, bytes]:
        return self.repos[repo_id].branches[branch]


class HubHandler(BaseHTTPRequestHandler):
    """Answers one request."""

    hub: HubServer
    protocol_version = "HTTP/1.1"

    ROUTES = (
        ("POST", r"/api/repos/create", "create_repo"),
        ("POST", r"/api/validate-yaml", "validate_yaml"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)", "model_info"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/revision/(?P<branch>.+)", "model_info"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)", "tree"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/branch/(?P<branch>.+)", "create_branch"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/preupload/(?P<branch>.+)", "preupload"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/commit/(?P<branch>.+)", "commit"),
        ("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "lfs_batch"),
        ("PUT", r"/lfs/(?P<oid>\w+)", "lfs_put"),
        ("HEAD", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
        ("GET", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    )

    def do(self):
        path, self.query = urlsplit(self.path).path, urlsplit(self.path).query
        self.body = self.read_body()
        if path == "/requests":
            return self.reply(200, self.hub.requests)
        self.hub.requests.append(f"{self.command} {path}")
        for method, pattern, name in self.ROUTES:
            match = re.fullmatch(pattern, path)
            if match and method == self.command:
                return getattr(self, name)(**{key: unquote(value) for key, value in match.groupdict().items()})
        return self.error(404, "EntryNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = do

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def create_repo(self):
        asked = json.loads(self.body)
        repo_id = f"{asked.get('organization') or USER}/{asked['name']}"
        exists = repo_id in self.hub.repos
        self.hub.repos.setdefault(
            repo_id, Repo(private=asked.get("visibility") == "private" or bool(asked.get("private")))
        )
        self.reply(409 if exists else 200, {"url": f"{self.hub.endpoint}/{repo_id}"})

    def validate_yaml(self):
        """Refuse what the Hub refuses of a base model: anything but an id."""
        content = json.loads(self.body)["content"]
        metadata = yaml.safe_load(content.split("---")[1]) if content.startswith("---") else {}
        names = metadata.get("base_model", [])
        wrong = [name for name in ([names] if isinstance(names, str) else names) if not HUB_ID.fullmatch(name)]
        errors = [{"message": f'"base_model" with value "{name}" is not valid.'} for name in wrong]
        self.reply(400 if errors else 200, {"errors": errors, "warnings": []})

    def model_info(self, repo, branch="main"):
        if not self.has(repo, branch):
            return
        files = self.hub.files(repo, branch)
        siblings = [{"rfilename": path} for path in files]
        sha = self.hub.repos[repo].sha(branch)
        self.reply(200, {"id": repo, "modelId": repo, "sha": sha, "tags": [], "siblings": siblings})

    def tree(self, repo, revision):
        """What clients of before `huggingface_hub` 2 list a repository by."""
        if not self.has(repo, revision):
            return
        files = self.hub.files(repo, self.hub.repos[repo].branch_of(revision))
        entries = [
            {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for path, data in files.items()
        ]
        self.reply(200, entries)

    def create_branch(self, repo, branch):
        branches = self.hub.repos[repo].branches
        exists = branch in branches
        branches.setdefault(branch, dict(branches["main"]))
        self.reply(409 if exists else 200, {})

    def preupload(self, repo, branch):
        if not self.has(repo, branch):
            return
        asked = [file["path"] for file in json.loads(self.body)["files"]]
        modes = {path: "lfs" if path.endswith(self.hub.lfs_suffixes or ("\0",)) else "regular" for path in asked}
        self.reply(
            200, {"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]}
        )

    def commit(self, repo, branch):
        if not self.has(repo, branch):
            return
        entries = [json.loads(line) for line in self.body.splitlines() if line]
        contents = {}
        for entry in entries:
            value = entry["value"]
            if entry["key"] == "file":
                contents[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                contents[value["path"]] = self.hub.lfs_objects[value["oid"]]
        stored = self.hub.repos[repo]
        is_pr = "create_pr=1" in self.query
        if is_pr:
            branch = "refs/pr/1"
            stored.branches[branch] = dict(stored.branches["main"])
        stored.branches[branch].update(contents)
        [header] = [entry["value"] for entry in entries if entry["key"] == "header"]
        stored.commits.append({"branch": branch, "summary": header["summary"], "paths": sorted(contents)})
        oid = stored.sha(branch)
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.endpoint}/{repo}/commit/{oid}"}
        if is_pr:
            answer["pullRequestUrl"] = f"{self.hub.endpoint}/{repo}/discussions/1"
        self.reply(200, answer)

    def lfs_batch(self, repo):
        objects = json.loads(self.body)["objects"]
        for each in objects:
            each["actions"] = {"upload": {"href": f"{self.hub.endpoint}/lfs/{each['oid']}"}}
        self.reply(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.error(400, "BadRequest")
        self.hub.lfs_objects[oid] = self.body
        return self.reply(200, {})

    def resolve(self, repo, revision, path):
        if not self.has(repo, revision):
            return
        stored = self.hub.repos[repo]
        branch = stored.branch_of(revision)
        commit = {"X-Repo-Commit": stored.sha(branch)}
        content = stored.branches[branch].get(path)
        if content is None:
            self.error(404, "EntryNotFound", commit)
            return
        etag = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "Content-Type": "application/octet-stream"}
        self.answer(200, content, commit | etag)

    def has(self, repo: str, revision: str) -> bool:
        """Whether there is such a repository and revision; answers 404 where not."""
        if repo not in self.hub.repos:
            self.error(404, "RepoNotFound")
            return False
        if self.hub.repos[repo].branch_of(revision) is None:
            self.error(404, "RevisionNotFound")
            return False
        return True

    def error(self, status: int, code: str, headers: dict | None = None) -> None:
        self.answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code, **(headers or {})})

    def reply(self, status: int, content: dict | list) -> None:
        self.answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, content: bytes, headers: dict) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": len(content)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args):
        pass
