"""The downloader for hub repositories and URLs: downloads in parallel, and resumes interrupted downloads.

Bytes are first written to a `.part` file, because huggingface_hub discards a partial file when it is interrupted, and
files can have gigabytes. The file gets its final name after it was checked against its source.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mllm_eval import disk
from mllm_eval.disk import saving
from mllm_eval.errors import UserError
from mllm_eval.hub.lock import LockedFile, Source
from mllm_eval.progress import Progress
from mllm_eval.storage import sha256_file

HANDS = 6
CHUNK = 1 << 20
WAIT_SECONDS = 60
Tell = Callable[[int], None]
"""Called with numbers of received bytes; negative if bytes were discarded."""


@dataclass(frozen=True, slots=True)
class WantedFile:
    """A file to download to `target`. size in bytes, sha256 and blob (git's hash of its content) as listed.

    get: appends the missing bytes to the part file.
    """

    name: str
    target: Path
    part: Path
    get: Callable[[Path, Tell], None]
    size: int | None = None
    sha256: str | None = None
    blob: str | None = None

    def is_listed(self, file: LockedFile, path: Path) -> bool:
        """Whether a file matches its listing: by size, and by SHA-256 or else git's hash, as far as they are known."""
        if self.size is not None and file.size != self.size:
            return False
        if self.sha256 is not None:
            return file.sha256 == self.sha256
        return self.blob is None or git_blob(path) == self.blob


class Transfer:
    """A download of several files of one source: counts bytes, and stops all threads if one file fails."""

    def __init__(self, source: Source, progress: Progress) -> None:
        self.source = source
        self.progress = progress
        self.done = self.total = 0
        self.guard = threading.Lock()
        self.stopped = threading.Event()

    def all(self, wanted: Sequence[WantedFile]) -> dict[str, LockedFile]:
        """Download missing files. Returns size and hash of every file by name. `progress` gets bytes.

        Raises UserError for a file that does not match or a disk that is too full, NotWritten if writing fails.
        Downloaded files are kept.
        """
        self.total = sum(one.size or 0 for one in wanted)
        self._check_room(wanted)
        self.tell(0)
        with ThreadPoolExecutor(HANDS) as hands:
            running = {one.name: hands.submit(self.one, one) for one in wanted}
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
        """Count bytes that were received or already present. Raises InterruptedError if another file failed."""
        if self.stopped.is_set():
            raise InterruptedError("another file failed")
        with self.guard:
            self.done += more
            self.progress(self.done, max(self.total, self.done))

    def one(self, wanted: WantedFile) -> LockedFile:
        """Download a file unless it is present. Raises UserError if it does not match, NotWritten if writing fails."""
        with saving(wanted.target):
            return self._one(wanted)

    def _one(self, wanted: WantedFile) -> LockedFile:
        target, part = wanted.target, wanted.part
        if target.is_file():
            if wanted.is_listed(file := _file(target), target):
                self.tell(file.size)
                return file
            target.unlink()
        part.parent.mkdir(parents=True, exist_ok=True)
        if part.is_file() and wanted.size is not None and part.stat().st_size > wanted.size:
            part.unlink()
        self.tell(part.stat().st_size if part.is_file() else 0)
        wanted.get(part, self.tell)
        if not wanted.is_listed(file := _file(part), part):
            part.unlink()
            said = f"{wanted.name} did not arrive as the hub lists it; {self.source.mend}"
            if self.source.kind == "url":
                expected = str(wanted.sha256)[:12]
                said = f"the file's SHA-256 is {file.sha256[:12]}..., {expected}... was expected; removed it"
            raise UserError(f"{self.source}: {said}")
        disk.replace(part, target)
        return file

    def _check_room(self, wanted: Sequence[WantedFile]) -> None:
        missing = sum(one.size or 0 for one in wanted if not one.target.is_file())
        missing -= sum(one.part.stat().st_size for one in wanted if one.part.is_file())
        folder = next((place for one in wanted for place in one.target.parents if place.is_dir()), Path())
        free = shutil.disk_usage(folder).free
        if missing > free:
            raise UserError(
                f"{folder}: {missing / 1e9:.1f} GB are still to fetch, {free / 1e9:.1f} GB are free; make room, "
                "or set MLLM_EVAL_DATA (of models HF_HOME) to a larger disk"
            )


def of_hub(source: Source, commit: str, entry: Any, target: Path, endpoint: str | None) -> WantedFile:
    """A file of a repository. entry: the hub's listing of it."""
    sha256 = entry.lfs.sha256 if entry.lfs else None
    # The part's name contains the hash, so that an incomplete file of another revision is not resumed.
    part = target.with_name(f".{target.name}.{(sha256 or entry.blob_id)[:12]}.part")
    get = functools.partial(_from_hub, source, commit, entry, endpoint)
    return WantedFile(entry.rfilename, target, part, get, entry.size, sha256, None if sha256 else entry.blob_id)


def of_address(source: Source, target: Path, sha256: str | None) -> WantedFile:
    """The file of a URL."""
    part = target.with_name(f"{target.name}.part")
    return WantedFile(target.name, target, part, functools.partial(_from_address, source), sha256=sha256)


@contextmanager
def _appended(part: Path) -> Iterator[io.BufferedWriter[disk.Through]]:
    """Open a part file for appending. After the `with` block its content is on the disk.

    Raises NotWritten if writing fails, which is thus distinguished from a failing connection.
    """
    with saving(part):
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        with io.BufferedWriter(disk.Through(handle), CHUNK) as file:
            file.seek(0, os.SEEK_END)
            yield file
            file.flush()
            disk.sync(handle)


def _from_hub(source: Source, commit: str, entry: Any, endpoint: str | None, part: Path, tell: Tell) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, but not named

    url = hf_hub_url(source.repo, entry.rfilename, repo_type=source.kind, revision=commit, endpoint=endpoint)
    place = get_hf_file_metadata(url, endpoint=endpoint, retry_on_errors=True).location
    headers = build_hf_headers(library_name="mllm-eval")
    if urlsplit(place).netloc != urlsplit(url).netloc:
        # The login is only for the hub, and must not be sent to the storage server it redirects to.
        headers.pop("authorization", None)
    with _appended(part) as file:
        http_get(
            place,
            file,
            resume_size=file.tell(),
            headers=headers,
            expected_size=entry.size,
            displayed_filename=entry.rfilename,
            tqdm_class=functools.partial(_Bar, tell),  # type: ignore[arg-type]  # called as a class is
        )


def _from_address(source: Source, part: Path, tell: Tell) -> None:
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(source.repo, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as answer:
            if have and answer.status != 206:
                # A server without support for ranges sends the whole file.
                tell(-have)
                part.unlink()
                have = 0
            total = have + int(answer.headers.get("Content-Length") or 0)
            with _appended(part) as file:
                while block := answer.read(CHUNK):
                    file.write(block)
                    tell(len(block))
    except urllib.error.HTTPError as error:
        if error.code == 416:
            part.unlink()
        raise UserError(f"{source}: the server says {error.code} {error.reason}; {source.mend}") from None
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{source}: no connection ({getattr(error, 'reason', error)}); {source.mend}") from None
    size = part.stat().st_size
    if total and size != total:
        raise UserError(
            f"{source}: the transfer stopped at {size:,} of {total:,} bytes; {source.mend} to go on from there"
        )


class _Bar:
    """Stands in for huggingface_hub's progress bar."""

    def __init__(self, tell: Tell, *_: object, **__: object) -> None:
        self.tell = tell

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    def update(self, more: int) -> None:
        """Count received bytes."""
        self.tell(more)


def _file(path: Path) -> LockedFile:
    return LockedFile(size=path.stat().st_size, sha256=sha256_file(path))


def git_blob(path: Path) -> str:
    """git's hash of a file's content, 40 hex digits, because the hub lists no SHA-256 for small files."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()
