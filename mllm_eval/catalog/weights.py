"""Where weights come from, and a digest of their bytes."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from pydantic import Field, model_validator

from mllm_eval.config import Strict
from mllm_eval.errors import UserError
from mllm_eval.hub import Source, read_lock
from mllm_eval.storage import locate, sha256_file, sha256_tree


class Weights(Strict):
    """A local folder in hub format (`path`, see `storage.locate`), or a hub `repo` at a `revision`.

    `path` may also be one file, a checkpoint of the original code. `url` is where that file is published, and `key`
    selects one of several sets of weights in it.
    """

    path: str | None = None
    repo: str | None = None
    revision: str | None = None
    url: str | None = Field(default=None, exclude_if=lambda value: value is None)
    key: str | None = Field(default=None, exclude_if=lambda value: value is None)

    @model_validator(mode="after")
    def _one_source(self) -> Weights:
        if (self.path is None) == (self.repo is None):
            raise ValueError("give exactly one of `path` and `repo`")
        if self.path is not None and self.revision is not None:
            raise ValueError("`revision` goes with `repo`, not with `path`")
        if self.url is not None and self.path is None:
            raise ValueError("`url` goes with `path`, the file it is kept in")
        if self.key is not None and self.path is None:
            raise ValueError("`key` goes with `path`, one file that keeps weights under names")
        return self

    def folder(self) -> Path | None:
        """The local folder or file; None for weights of a hub repository."""
        return locate(self.path) if self.path is not None else None

    def source(self) -> Source | None:
        """Where `mllm-eval weights` downloads them from; None for weights that exist only locally."""
        mend = "fetch and lock them with `mllm-eval weights`"
        if self.repo is not None:
            return Source("model", self.repo, self.revision, mend)
        return Source("url", self.url, None, mend) if self.url is not None else None

    def digest(self) -> str:
        """SHA-256 (64 hex digits) of a local file or of a folder without its model cards, or `repo@revision`.

        For a repository without a pinned revision, the revision is that of the lock. `#key` after the digest of a file
        names the set of weights in it.

        Raises:
            UserError: the folder or file does not exist.
        """
        folder, source = self.folder(), self.source()
        lock = read_lock(source) if source is not None and (folder is None or not folder.exists()) else None
        if folder is None:
            return f"{self.repo}@{self.revision or (lock.revision_found if lock else 'main')}"
        if lock is not None:
            if folder.name not in lock.only.files:
                raise UserError(f"{folder}: is not in the lock of {source}; delete the lock, then `mllm-eval weights`")
            return lock.only.files[folder.name].sha256 + self._which
        if folder.is_file():
            status = os.stat(folder)
            return _file_digest(folder.resolve(), (status.st_size, status.st_mtime_ns)) + self._which
        if not folder.is_dir():
            raise UserError(f"{folder}: no weights here; mend `weights.path: {self.path}`")
        stamp = tuple(
            (path.name, status.st_size, status.st_mtime_ns)
            for path in sorted(folder.rglob("*"))
            if (status := os.stat(path))
        )
        return _digest(folder.resolve(), stamp)

    @property
    def _which(self) -> str:
        return "" if self.key is None else f"#{self.key}"


@cache
def _digest(folder: Path, stamp: tuple[tuple[str, int, int], ...]) -> str:
    # `stamp` is only part of the cache key, so that a changed file is hashed again.
    return sha256_tree(folder, keep=lambda path: path.suffix != ".md")


@cache
def _file_digest(path: Path, stamp: tuple[int, int]) -> str:
    return sha256_file(path)
