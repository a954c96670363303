"""A model hub that speaks Hugging Face's HTTP API as huggingface_hub uses it, on this machine.

    with hub_server.serving_hub() as hub:
        hub.add("owner/name", {"config.json": b"{}", "model.safetensors": folder / "file"})
        # HF_ENDPOINT=hub.address

Like the real one it answers `/api/models/.../revision/...?blobs=true` and `/resolve/`, hands small
files out itself with an ETag (their git blob's SHA-1) and sends large ones (LFS, a SHA-256) to
another host, which knows byte ranges. It counts what it serves and can be told to fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from serving import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

MAIN = "c0" * 20  # the commit of every repository's branch "main"
LARGE = (".safetensors", ".onnx", ".data", ".bin", ".gguf", ".pt", ".model")
BLOCK = 1 << 16  # bytes sent at a time


@dataclass
class File:
    content: bytes
    name: str

    @property
    def large(self) -> bool:
        return self.name.endswith(LARGE)

    @property
    def git(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.git

    def described(self) -> dict[str, object]:
        about: dict[str, object] = {"rfilename": self.name, "size": len(self.content)}
        about["blobId"] = self.git
        if self.large:
            about["lfs"] = {"sha256": self.sha256, "size": len(self.content), "pointerSize": 134}
        return about


@dataclass
class Hub:
    """`address` goes into HF_ENDPOINT. The rest is told by tests, or counted for them."""

    address: str = ""
    elsewhere: str = ""  # the other host's address
    repositories: dict[str, dict[str, File]] = field(default_factory=dict)

    accepts: str = ""  # the key that opens gated repositories
    gated: set[str] = field(default_factory=set)
    cut_at: dict[str, int] = field(default_factory=dict)  # file -> bytes of it before each cut
    cuts: dict[str, int] = field(default_factory=dict)  # file -> how often
    flipped: set[str] = field(default_factory=set)  # files with a byte that is another
    pause: float = 0.0  # seconds before each block of a large file
    broken: int = 0  # status of every answer, 0: all is well

    sent: Counter[str] = field(default_factory=Counter)  # file -> bytes
    asked: Counter[str] = field(default_factory=Counter)  # file -> downloads begun
    listed: list[str] = field(default_factory=list)  # "repository revision" of each listing
    keys: set[str] = field(default_factory=set)  # that came to this host
    keys_elsewhere: set[str] = field(default_factory=set)

    def add(self, repo: str, files: Mapping[str, bytes | Path]) -> None:
        self.repositories[repo] = {
            name: File(given if isinstance(given, bytes) else given.read_bytes(), name)
            for name, given in files.items()
        }

    def add_folder(self, repo: str, folder: Path, inside: str = "") -> None:
        """The folder's files, in the folder `inside` of the repository, beside what it has."""
        prefix = f"{inside}/" if inside else ""
        found = {
            prefix + file.relative_to(folder).as_posix(): File(
                file.read_bytes(), prefix + file.name
            )
            for file in folder.rglob("*")
            if file.is_file()
        }
        self.repositories.setdefault(repo, {}).update(found)


# --- the hub's own host --------------------------------------------------------------------------


def _hub(hub: Hub) -> Starlette:
    def refused(request: Request, repo: str, revision: str, content: bool) -> Response | None:
        key = request.headers.get("Authorization", "")
        if key:
            hub.keys.add(key)
        if hub.broken:
            return Response(status_code=hub.broken)
        if repo not in hub.repositories:
            return _error(401, "RepoNotFound", "Invalid username or password.")
        if content and repo in hub.gated and key != f"Bearer {hub.accepts}":
            status = 403 if key else 401
            return _error(status, "GatedRepo", f"Access to model {repo} is restricted.")
        if _commit(revision) is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return None

    async def model(request: Request) -> Response:
        repo = f"{request.path_params['owner']}/{request.path_params['name']}"
        revision = request.path_params.get("revision", "main")
        hub.listed.append(f"{repo} {revision}")
        if answer := refused(request, repo, revision, content=False):
            return answer
        files = hub.repositories[repo]
        whole = request.query_params.get("blobs", "").lower() == "true"
        return JSONResponse(
            {
                "_id": "0" * 24,
                "id": repo,
                "modelId": repo,
                "sha": _commit(revision),
                "private": False,
                "gated": "auto" if repo in hub.gated else False,
                "disabled": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "config": json.loads(files["config.json"].content)
                if "config.json" in files
                else {},
                "siblings": [
                    file.described() if whole else {"rfilename": file.name}
                    for file in files.values()
                ],
            }
        )

    async def resolve(request: Request) -> Response:
        repo = f"{request.path_params['owner']}/{request.path_params['name']}"
        revision, name = request.path_params["revision"], request.path_params["file"]
        if answer := refused(request, repo, revision, content=True):
            return answer
        headers = {"X-Repo-Commit": str(_commit(revision))}
        file = hub.repositories[repo].get(name)
        if file is None:
            return _error(404, "EntryNotFound", "Entry not found", headers)
        if file.large:
            headers["X-Linked-Etag"] = f'"{file.etag}"'
            headers["X-Linked-Size"] = str(len(file.content))
            return RedirectResponse(f"{hub.elsewhere}/{repo}/{name}", 302, headers)
        headers["ETag"] = f'"{file.etag}"'
        return _content(hub, file, request, headers)

    return Starlette(
        routes=[
            Route("/api/models/{owner}/{name}", model),
            Route("/api/models/{owner}/{name}/revision/{revision}", model),
            Route("/{owner}/{name}/resolve/{revision}/{file:path}", resolve),
        ]
    )


def _commit(revision: str) -> str | None:
    """Any commit is served, as if no file had changed since."""
    if revision == "main":
        return MAIN
    is_commit = len(revision) == 40 and set(revision) <= set("0123456789abcdef")
    return revision if is_commit else None


def _error(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    more = {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})}
    return JSONResponse({"error": message}, status, more)


# --- the host that large files come from ---------------------------------------------------------


def _elsewhere(hub: Hub) -> Starlette:
    async def content(request: Request) -> Response:
        if key := request.headers.get("Authorization"):
            hub.keys_elsewhere.add(key)
        repo = f"{request.path_params['owner']}/{request.path_params['name']}"
        file = hub.repositories[repo][request.path_params["file"]]
        return _content(hub, file, request, {"ETag": f'"{file.etag}"'})

    return Starlette(routes=[Route("/{owner}/{name}/{file:path}", content)])


def _content(hub: Hub, file: File, request: Request, headers: dict[str, str]) -> Response:
    whole, begin, status = file.content, 0, 200
    if file.name in hub.flipped:
        middle = len(whole) // 2
        whole = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    if asked := request.headers.get("Range"):
        begin, status = int(asked.removeprefix("bytes=").removesuffix("-")), 206
        headers["Content-Range"] = f"bytes {begin}-{len(whole) - 1}/{len(whole)}"
    headers |= {"Content-Length": str(len(whole) - begin), "Accept-Ranges": "bytes"}
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    end = len(whole)
    if hub.cuts.get(file.name, 0) > 0:
        hub.cuts[file.name] -= 1
        end = min(end, begin + hub.cut_at[file.name])
    hub.asked[file.name] += 1

    async def blocks() -> AsyncIterator[bytes]:
        for place in range(begin, end, BLOCK):
            if file.large and hub.pause:
                await asyncio.sleep(hub.pause)
            block = whole[place : min(place + BLOCK, end)]
            hub.sent[file.name] += len(block)
            yield block
        if end < len(whole):
            raise ConnectionAbortedError("as the test wanted")

    return StreamingResponse(blocks(), status, headers)


@contextlib.contextmanager
def serving_hub() -> Iterator[Hub]:
    hub = Hub()
    with serving(_hub(hub)) as hub.address, serving(_elsewhere(hub)) as hub.elsewhere:
        yield hub


def environment(hub: Hub, top: Path) -> dict[str, str]:
    """Where a process finds the hub, and folders of its own for all that it keeps."""
    return {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(top / "hf"),
        "SLM_HOME": str(top / "home"),
        "HF_HUB_CACHE": str(top / "hf" / "hub"),
        "HF_TOKEN": "",
        "HF_HUB_OFFLINE": "",
        "TRANSFORMERS_OFFLINE": "",
        "PYTHONPATH": os.pathsep.join(
            filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")))
        ),
    }
