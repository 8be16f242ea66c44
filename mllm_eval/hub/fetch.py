"""Fetching through huggingface_hub, or from a web address; the only modules that touch the network are here.

huggingface_hub finds the user's own login (`hf auth login`, $HF_TOKEN) and sends it to the hub; this project
neither reads nor writes it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mllm_eval.errors import UserError
from mllm_eval.hub.lock import Lock, LockedFile, Source, locked_files, read_lock, write_lock
from mllm_eval.storage import sha256_file

Progress = Callable[[int, int], None]
Choose = Callable[[Sequence[str]], Sequence[str]]
CHUNK = 1 << 20
WAIT_SECONDS = 60


def _say(_done: int, _total: int) -> None:
    """Nobody listens."""


def fetch(
    source: Source,
    choose: Choose,
    folder: Path | None = None,
    progress: Progress = _say,
    home: Path | None = None,
) -> Path:
    """Fetch the files that `choose` picks of a repository's, check them against the hub, and lock them.

    Files go to `folder`, or to huggingface_hub's own cache, where what is there already is not fetched again.
    A lock that exists is kept: the revision must still mean its commit, the files must be its files.
    `progress` gets bytes done and in all. Returns the folder.

    Raises:
        UserError: one line for no network, no access, no such repository or revision, a file cut short.
    """
    before = read_lock(source, home)
    with explained(source):
        api = _api()
        revision = before.commit if before else source.revision
        info: Any = api.repo_info(source.repo, revision=revision, repo_type=source.kind, files_metadata=True)
        listed = {entry.rfilename: entry for entry in info.siblings or []}
        names = sorted(choose(sorted(listed)))
        if not names:
            raise UserError(
                f"{source}: none of its {len(listed)} files is one that is needed; is it the right repository?"
            )
        total, done, place = sum(listed[name].size or 0 for name in names), 0, folder
        progress(0, total)
        for name in names:
            options: dict[str, Any] = {} if folder is None else {"local_dir": folder}
            path = Path(api.hf_hub_download(source.repo, name, repo_type=source.kind, revision=info.sha, **options))
            _same_as_hub(path, listed[name], source)
            # A file of a sub-folder stands so many levels below the snapshot.
            place = path.parents[name.count("/")]
            done += listed[name].size or 0
            progress(done, total)
    assert place is not None
    return _lock(source, place, names, info.sha, before, home)


def adopt(source: Source, choose: Choose, folder: Path, home: Path | None = None) -> Path:
    """Lock files that are on this machine already: a copy brought here, or huggingface_hub's cache.

    Where a lock exists they must be its files. Raises UserError where they are not, or where none is there.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    before = read_lock(source, home)
    chosen = sorted(before.files) if before else sorted(choose(names))
    if not chosen:
        raise UserError(f"{folder}: none of the files of {source} is here")
    commit = folder.name if len(folder.name) == 40 and folder.parent.name == "snapshots" else None
    return _lock(source, folder, chosen, before.commit if before else commit, before, home)


def cached_folder(source: Source) -> Path:
    """Where huggingface_hub's cache has a revision. Raises UserError where it has not."""
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(source.repo, repo_type=source.kind, revision=source.revision, local_files_only=True)
    except Exception:
        raise UserError(f"{source}: not in huggingface_hub's cache on this machine; {source.mend}") from None
    return Path(str(found))


def fetch_url(
    source: Source, path: Path, sha256: str | None = None, progress: Progress = _say, home: Path | None = None
) -> Path:
    """Fetch one file from a web address to `path`, go on where a broken transfer stopped, check and lock it.

    Without `sha256` the first fetch decides what the file is, and the lock holds later ones to it.
    Returns the folder.
    """
    before = read_lock(source, home)
    expected = before.files[path.name].sha256 if before and path.name in before.files else sha256
    if not (path.is_file() and (expected is None or sha256_file(path) == expected)):
        _transfer(source, path, progress)
    found = sha256_file(path)
    if expected is not None and found != expected:
        path.unlink()
        raise UserError(f"{source}: the file's SHA-256 is {found[:12]}..., {expected[:12]}... was expected; removed it")
    return _lock(source, path.parent, [path.name], None, before, home)


def _transfer(source: Source, path: Path, progress: Progress) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(source.repo, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as answer:
            # A server that knows no ranges sends the file from its beginning.
            have = have if answer.status == 206 else 0
            total = have + int(answer.headers.get("Content-Length") or 0)
            with open(part, "ab" if have else "wb") as file:
                while block := answer.read(CHUNK):
                    file.write(block)
                    progress(file.tell(), total)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            part.unlink()
        raise UserError(f"{source}: the server says {error.code} {error.reason}; {source.mend}") from None
    except OSError as error:
        raise UserError(f"{source}: no connection ({getattr(error, 'reason', error)}); {source.mend}") from None
    size = part.stat().st_size
    if total and size != total:
        raise UserError(
            f"{source}: the transfer stopped at {size:,} of {total:,} bytes; {source.mend} to go on from there"
        )
    shutil.move(part, path)


def _api() -> Any:
    from huggingface_hub import HfApi

    # Read now: huggingface_hub itself reads it once, when it is imported.
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"))


def _same_as_hub(path: Path, entry: Any, source: Source) -> None:
    size = path.stat().st_size
    if entry.size is not None and size != entry.size:
        short = "cut short, " if size < entry.size else ""
        raise UserError(
            f"{path}: {short}{size:,} bytes where the hub has {entry.size:,}; delete it, then {source.mend}"
        )
    expected = entry.lfs.sha256 if entry.lfs else entry.blob_id
    if expected and (sha256_file(path) if entry.lfs else git_blob(path)) != expected:
        raise UserError(f"{path}: its content is not what the hub has; delete it, then {source.mend}")


def git_blob(path: Path) -> str:
    """git's own name of a file's content, 40 hex digits: the hub gives no SHA-256 of small files."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def _lock(
    source: Source, folder: Path, names: Sequence[str], commit: str | None, before: Lock | None, home: Path | None
) -> Path:
    files: Mapping[str, LockedFile] = locked_files(folder, names)
    if before is not None:
        for name, expected in before.files.items():
            if name not in files or files[name] != expected:
                found = files[name].sha256[:12] if name in files else "missing"
                raise UserError(
                    f"{folder / name}: {found}, the lock of {source} says {expected.sha256[:12]}; "
                    f"delete the file, then {source.mend}, or delete the lock if the change is meant"
                )
        commit = before.commit or commit
    lock = Lock(kind=source.kind, repo=source.repo, revision=source.revision, commit=commit, files=dict(files))
    write_lock(source, lock, folder, home)
    return folder


class explained:
    """Turns what huggingface_hub raises into one line with the mend. No message of its carries the login."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, UserError) or not isinstance(error, Exception):
            return
        raise UserError(f"{self.source}: {_reason(error, self.source)}") from None


def _reason(error: Exception, source: Source) -> str:
    from huggingface_hub import errors

    page = f"https://huggingface.co/{'datasets/' if source.kind == 'dataset' else ''}{source.repo}"
    if isinstance(error, errors.GatedRepoError):
        return f"gated; accept its licence at {page}, log in with `hf auth login`, then {source.mend}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the hub has no revision {source.revision!r} of it; correct `revision`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub has no such repository, or hides it without a login; correct `repo`, or `hf auth login`"
    if isinstance(error, errors.HFValidationError):
        return f"not a repository's name ({str(error).splitlines()[0]}); correct `repo`"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, which forbids fetching; unset it, or give --offline to use what is here"
    if isinstance(error, errors.HfHubHTTPError):
        status = getattr(error.response, "status_code", "an error")
        return f"the hub says {status}; try again later, or check the login with `hf auth whoami`"
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    if "onsistency" in text or "peer closed" in text.lower():
        return f"a file arrived cut short ({text[:120]}); to go on, {source.mend}"
    return f"the hub can't be reached ({text[:120]}); with a connection {source.mend}, or bring a copy with --from DIR"
