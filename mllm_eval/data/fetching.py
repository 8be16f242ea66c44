"""Files of a hub data set at one commit: listed, fetched with many hands, and gone on with where a fetch stopped.

huggingface_hub resolves, lists and transfers. The bytes go to `<file>.part` first, because huggingface_hub
itself throws away what it has of a file when it is interrupted, and a file may have a gigabyte.
The user's own login (`hf auth login`, $HF_TOKEN) is sent to the hub by huggingface_hub; it is neither read nor
written here.
"""

from __future__ import annotations

import errno
import functools
import os
import shutil
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mllm_eval.data.locks import matching
from mllm_eval.errors import UserError
from mllm_eval.hub.fetch import explained, git_blob
from mllm_eval.hub.lock import LockedFile, Source
from mllm_eval.storage import FileLock, data_home, sha256_file

Progress = Callable[[int, int], None]
MB = 1_000_000
HANDS = 6


def folder_for(repo: str, commit: str) -> Path:
    """Where a data set's commit is kept: `hub/<owner>/<name>@<commit>` under the data home."""
    return data_home() / "hub" / f"{repo}@{commit[:12]}"


def fetch_files(source: Source, patterns: Iterable[str], progress: Progress) -> tuple[Path, str, dict[str, LockedFile]]:
    """Fetch the files that the globs match, as far as they are not here; the folder, the commit and the files.

    Every file is held against the size and the hash that the hub lists for it. `progress` gets megabytes.

    Raises:
        UserError: one line for no network, no access, no such data set or revision, files that no glob matches or
            that are not one whole set, a full disk, a file that came out wrong. What was fetched stays.
    """
    with explained(source):
        api = _api()
        info = api.dataset_info(source.repo, revision=source.revision, files_metadata=True)
        commit = str(info.sha)
        listed = {entry.rfilename: entry for entry in info.siblings or []}
        names = _chosen(source, listed, patterns)
        folder = folder_for(source.repo, commit)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: {error.strerror}; set MLLM_EVAL_DATA to a folder that may be written") from None
        with FileLock(folder.parent / f".{folder.name}.lock"):
            fetch = _Fetch(api.endpoint, source, commit, folder, progress)
            return folder, commit, fetch.all([listed[name] for name in names])


def _chosen(source: Source, listed: dict[str, Any], patterns: Iterable[str]) -> list[str]:
    names: list[str] = []
    for pattern in patterns:
        found = matching(listed, pattern)
        if not found:
            some = ", ".join(sorted(listed)[:4]) or "nothing"
            raise UserError(f"{source}: has no files {pattern} (but {some}, ...); correct `path`, `config` or `split`")
        whole_set(found, str(source))
        names += found
    return names


def whole_set(names: Iterable[str], where: str) -> None:
    """UserError where names that end in `-00001-of-00004` are not all the parts of one table, each once."""
    parts = [name for name in names if "-of-" in name]
    for name in parts:
        total = name.rpartition("-of-")[2][:5]
        same = [other for other in parts if other.rpartition("-of-")[2][:5] == total]
        if total.isdigit() and (len(same) != int(total) or len(parts) != len(same)):
            raise UserError(
                f"{where}: {len(parts)} files like {name} are not the {int(total)} parts of one table; "
                "pin another `revision`, or a narrower `path`"
            )


class _Fetch:
    """The files of one commit: who has how many bytes, and whether all should stop."""

    def __init__(self, endpoint: str, source: Source, commit: str, folder: Path, progress: Progress) -> None:
        self.endpoint = endpoint
        self.source = source
        self.commit = commit
        self.folder = folder
        self.progress = progress
        self.done = self.total = 0
        self.guard = threading.Lock()
        self.stopped = threading.Event()

    def all(self, entries: list[Any]) -> dict[str, LockedFile]:
        """Every file's size and hash, in order of the names."""
        self.total = sum(entry.size for entry in entries)
        self._check_room(entries)
        self.tell(0)
        with ThreadPoolExecutor(HANDS) as hands:
            running = {entry.rfilename: hands.submit(self.one, entry) for entry in entries}
            try:
                for future in wait(running.values(), return_when=FIRST_EXCEPTION).done:
                    future.result()
            except BaseException:
                self.stopped.set()
                for future in running.values():
                    future.cancel()
                raise
        return {name: running[name].result() for name in sorted(running)}

    def tell(self, more: int) -> None:
        """Note bytes that arrived, or were there."""
        if self.stopped.is_set():
            raise InterruptedError("another file failed")
        with self.guard:
            self.done += more
            self.progress(self.done // MB, max(1, -(-self.total // MB)))

    def one(self, entry: Any) -> LockedFile:
        """Fetch a file unless it is here."""
        target = self.folder / entry.rfilename
        if target.is_file():
            if _is(found := _file(target), target, entry):
                self.tell(entry.size)
                return found
            target.unlink()
        part = self._part(entry)
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._transfer(entry, part)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(f"{part}: {error.strerror}; make room, then {self.source.mend} to go on") from None
            raise
        if not _is(found := _file(part), part, entry):
            part.unlink()
            raise UserError(f"{self.source}: {entry.rfilename} did not arrive as the hub lists it; {self.source.mend}")
        os.replace(part, target)
        return found

    def _part(self, entry: Any) -> Path:
        # Named by content: what another revision left half fetched is never gone on with.
        target = self.folder / str(entry.rfilename)
        return target.with_name(f".{target.name}.{(entry.lfs.sha256 if entry.lfs else entry.blob_id)[:12]}.part")

    def _transfer(self, entry: Any, part: Path) -> None:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, but not named

        have = part.stat().st_size if part.is_file() else 0
        if have > entry.size:
            part.unlink()
            have = 0
        self.tell(have)
        url = hf_hub_url(
            self.source.repo, entry.rfilename, repo_type="dataset", revision=self.commit, endpoint=self.endpoint
        )
        place = get_hf_file_metadata(url, endpoint=self.endpoint, retry_on_errors=True).location
        headers = build_hf_headers(library_name="mllm-eval")
        if urlsplit(place).netloc != urlsplit(url).netloc:
            # A login is for the hub alone, not for the store that it sends us to.
            headers.pop("authorization", None)
        with open(part, "ab") as file:
            http_get(
                place,
                file,
                resume_size=have,
                headers=headers,
                expected_size=entry.size,
                displayed_filename=entry.rfilename,
                tqdm_class=functools.partial(_Bar, self.tell),  # type: ignore[arg-type]  # called as a class is
            )

    def _check_room(self, entries: list[Any]) -> None:
        missing = sum(entry.size for entry in entries if not (self.folder / entry.rfilename).is_file())
        missing -= sum(part.stat().st_size for part in map(self._part, entries) if part.is_file())
        free = shutil.disk_usage(self.folder).free
        if missing > free:
            raise UserError(
                f"{self.folder}: {missing / 1e9:.1f} GB are still to fetch, {free / 1e9:.1f} GB are free; make room, "
                "or set MLLM_EVAL_DATA to a larger disk"
            )


class _Bar:
    """What huggingface_hub takes for a progress bar."""

    def __init__(self, tell: Callable[[int], None], *_: object, **__: object) -> None:
        self.tell = tell

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    def update(self, more: int) -> None:
        """Bytes that arrived."""
        self.tell(more)


def _api() -> Any:
    from huggingface_hub import HfApi

    # Read now: huggingface_hub itself reads it once, when it is imported.
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"))


def _file(path: Path) -> LockedFile:
    return LockedFile(size=path.stat().st_size, sha256=sha256_file(path))


def _is(found: LockedFile, path: Path, entry: Any) -> bool:
    """Whether a file is what the hub lists: by its SHA-256 if it is large, by git's own name of it if small."""
    same = found.sha256 == entry.lfs.sha256 if entry.lfs else git_blob(path) == entry.blob_id
    return bool(found.size == entry.size and same)
