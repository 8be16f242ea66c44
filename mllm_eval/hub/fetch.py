"""Downloads, checks and locks the files of a source. huggingface_hub resolves names and lists files.

huggingface_hub finds the user's own login (`hf auth login`, $HF_TOKEN) and sends it to the hub. This project neither
reads nor writes it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mllm_eval.disk import saving
from mllm_eval.errors import UserError
from mllm_eval.hub.lock import ONLY, Lock, LockedFile, LockedPart, Source, lock_path, locked_files, read_lock, write
from mllm_eval.hub.transfer import Transfer, of_address, of_hub
from mllm_eval.locks import FileLock
from mllm_eval.progress import Progress, unheard
from mllm_eval.storage import data_home, within

Choose = Callable[[Sequence[str]], Sequence[str]]
"""Selects the needed files from those of a repository; may raise UserError."""


def folder_for(repo: str, commit: str) -> Path:
    """Folder of a data set's commit: `hub/<owner>/<name>@<commit>` under the data home."""
    return data_home() / "hub" / f"{repo}@{commit[:12]}"


def fetch_files(
    source: Source, choose: Choose, progress: Progress = unheard, folder: Path | None = None
) -> tuple[Path, str, dict[str, LockedFile]]:
    """Download the repository's files that `choose` selects and that are missing. Returns folder, commit and files.

    A model's files go to huggingface_hub's cache, where other programs find them, a data set's to `folder_for`, and
    both to `folder` if it is given. Every file is checked against the size and hash that the hub lists for it.
    progress: called with (bytes done, bytes in total).

    Raises:
        UserError: one line for no network, no access, an unknown repository or revision, a full disk, or a file that
            does not match. Files downloaded before the error are kept.
    """
    with explained(source):
        api = _api()
        info: Any = api.repo_info(source.repo, revision=source.revision, repo_type=source.kind, files_metadata=True)
        commit = str(info.sha)
        listed = {entry.rfilename: entry for entry in info.siblings or []}
        hold_names(source, commit, listed)
        names = sorted(choose(sorted(listed)))
        if not names:
            raise UserError(
                f"{source}: none of its {len(listed)} files is one that is needed; is it the right repository?"
            )
        if folder is None and source.kind == "model":
            return _to_cache(api, source, commit, [listed[name] for name in names], progress)
        folder = folder or folder_for(source.repo, commit)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: {error.strerror}; set MLLM_EVAL_DATA to a folder that may be written") from None
        wanted = [of_hub(source, commit, listed[name], folder / name, api.endpoint) for name in names]
        with FileLock(folder.parent / f".{folder.name}.lock"):
            return folder, commit, Transfer(source, progress).all(wanted)


def hold_names(source: Source, commit: str, listed: Mapping[str, Any]) -> None:
    """Raise UserError for file names and hashes that no repository can have, because paths are made of them."""
    try:
        for name, entry in listed.items():
            within(Path(), name)
            for digest in (commit, entry.blob_id, entry.lfs.sha256 if entry.lfs else None):
                if digest is not None and not re.fullmatch("[0-9a-fA-F]{6,64}", str(digest)):
                    raise ValueError(f"{str(digest)[:40]!r} is no hash")
    except ValueError as problem:
        raise UserError(f"{source}: the hub lists what no repository has: {problem}; nothing was fetched") from None


def _to_cache(
    api: Any, source: Source, commit: str, entries: Sequence[Any], progress: Progress
) -> tuple[Path, str, dict[str, LockedFile]]:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    cache = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=source.repo, repo_type=source.kind)
    # The cache stores contents by their hash. huggingface_hub makes a snapshot's names as links to them.
    blobs = [entry.lfs.sha256 if entry.lfs else entry.blob_id for entry in entries]
    places = [cache / "blobs" / blob for blob in blobs]
    wanted = [of_hub(source, commit, entry, place, api.endpoint) for entry, place in zip(entries, places, strict=True)]
    files = Transfer(source, progress).all(wanted)
    folder = cache
    for name in files:
        with saving(cache / name):
            path = Path(api.hf_hub_download(source.repo, name, repo_type=source.kind, revision=commit))
        # The snapshot is one level above the file, plus one for each subfolder in its name.
        folder = path.parents[name.count("/")]
    return folder, commit, files


def fetch(
    source: Source, choose: Choose, folder: Path | None = None, progress: Progress = unheard, home: Path | None = None
) -> Path:
    """Download files of a repository as `fetch_files` does, and lock them. Returns the folder.

    An existing lock is kept: its commit is downloaded, and the files must match it. Raises UserError otherwise, and as
    `fetch_files` does.
    """
    before = read_lock(source, home)
    asked = Source(source.kind, source.repo, before.only.commit or source.revision, source.mend) if before else source
    with explained(source):
        place, commit, files = fetch_files(asked, choose, progress, folder)
    return _lock(source, place, files, commit, before, home)


def fetch_url(
    source: Source, path: Path, sha256: str | None = None, progress: Progress = unheard, home: Path | None = None
) -> Path:
    """Download one file from a URL to `path`, and check and lock it. An interrupted download is resumed.

    Without `sha256` the first download is trusted, and the lock holds its hash for later ones. Returns the folder.
    Raises UserError if the download fails or the file does not match.
    """
    before = read_lock(source, home)
    expected = before.only.files[path.name].sha256 if before and path.name in before.only.files else sha256
    files = Transfer(source, progress).all([of_address(source, path, expected)])
    return _lock(source, path.parent, files, None, before, home)


def adopt(source: Source, choose: Choose, folder: Path, home: Path | None = None) -> Path:
    """Lock files that are already on this machine: a copy that the user gives, or huggingface_hub's cache.

    If a lock exists, the files must match it. Raises UserError if they do not, or if there are none.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    before = read_lock(source, home)
    chosen = sorted(before.only.files) if before else sorted(choose(names))
    if not chosen:
        raise UserError(f"{folder}: none of the files of {source} is here")
    commit = folder.name if len(folder.name) == 40 and folder.parent.name == "snapshots" else None
    return _lock(source, folder, locked_files(folder, chosen), before.only.commit if before else commit, before, home)


def cached_folder(source: Source) -> Path:
    """Folder of a revision in huggingface_hub's cache. Raises UserError if it is not there."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(source.repo, repo_type=source.kind, revision=source.revision, local_files_only=True)
    except Exception:
        raise UserError(f"{source}: not in huggingface_hub's cache on this machine; {source.mend}") from None
    return Path(str(folder))


def _api() -> Any:
    from huggingface_hub import HfApi

    # Read here, because huggingface_hub reads this variable only once, when it is imported.
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"))


def _lock(
    source: Source,
    folder: Path,
    files: Mapping[str, LockedFile],
    commit: str | None,
    before: Lock | None,
    home: Path | None,
) -> Path:
    if before is not None:
        for name, expected in before.only.files.items():
            if name not in files or files[name] != expected:
                digest = files[name].sha256[:12] if name in files else "missing"
                raise UserError(
                    f"{folder / name}: {digest}, the lock of {source} says {expected.sha256[:12]}; "
                    f"delete the file, then {source.mend}, or delete the lock if the change is meant"
                )
        commit = before.only.commit or commit
    part = LockedPart(kind=source.kind, repo=source.repo, revision=source.revision, commit=commit, files=dict(files))
    write(lock_path(source, home), Lock(parts={ONLY: part}), {ONLY: folder})
    return folder


class explained:
    """Turns exceptions of huggingface_hub into a UserError of one line with advice, which never contains the login."""

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
