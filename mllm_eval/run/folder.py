"""The common part of runs and external models: a hash, a name, and a folder under results/runs with its files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from mllm_eval.catalog.variant import DEFAULT, VariantKey, stem
from mllm_eval.environment import describe
from mllm_eval.errors import UserError
from mllm_eval.storage import read_json, results_home, write_atomic, write_json


@dataclass(frozen=True, slots=True)
class _KeptSummary:
    """A cached summary, with the file's inode, size and modification time (ns) when it was read."""

    state: tuple[int, int, int]
    content: Any


class RunFolder:
    """Base of everything with a hash, a name and a folder under results/runs.

    Subclasses are runs, external models that are evaluated unchanged (`mllm_eval.external`), and answers that were
    made elsewhere (`mllm_eval.imported`).
    """

    config_width = 80
    """Maximum line length of config.yaml."""

    @property
    def hash(self) -> str:
        """12 hex digits of a hash of everything that can change a result."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """The name for display: the stem and the hash."""
        return f"{self.stem}-{self.hash}"

    @property
    def data(self) -> str:
        """The data pin of its benchmarks."""
        raise NotImplementedError

    @property
    def heading(self) -> str:
        """The heading of its own table; `stem` names the table's files."""
        raise NotImplementedError

    @property
    def stem(self) -> str:
        """The name without the hash."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Return the content of config.yaml as plain data."""
        raise NotImplementedError

    def write_config(self) -> None:
        """Write config.yaml, which identifies the folder, unless it already has this content."""
        text = yaml.safe_dump(self.config(), sort_keys=False, allow_unicode=True, width=self.config_width)
        path = self.folder / "config.yaml"
        if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
            write_atomic(path, text)

    def noted(self) -> dict[str, Any]:
        """Return further fields of manifest.json, besides name, hash and sessions."""
        return {}

    def note_session(self) -> None:
        """Write manifest.json, adding a session if the environment differs from the last session's."""
        sessions, now = list(self.manifest().get("sessions", [])), describe()
        if sessions and {**sessions[-1], "time": ""} == {**now, "time": ""}:
            return
        manifest = {"run": self.name, "hash": self.hash, **self.noted(), "sessions": [*sessions, now]}
        write_json(self.folder / "manifest.json", manifest)

    def manifest(self) -> dict[str, Any]:
        """Return the content of manifest.json; empty where it is missing or damaged."""
        return read_manifest(self.folder)

    @property
    def folder(self) -> Path:
        """The folder of all its files."""
        return results_home() / "runs" / self.hash

    @property
    def checkpoint(self) -> Path:
        """The folder of the trained model."""
        return self.folder / "checkpoint"

    def stage_dir(self, stage: int) -> Path:
        """Return the folder of a training stage (1 or 2)."""
        return self.folder / f"stage{stage}"

    def answers_path(self, benchmark: str, variant: VariantKey = DEFAULT) -> Path:
        """Return the path of the journal of answers."""
        return self.folder / "answers" / f"{stem(benchmark, variant)}.jsonl"

    def scores_path(self, benchmark: str, rules: str, variant: VariantKey = DEFAULT) -> Path:
        """Return the path of the scores of single samples."""
        return self.folder / "scores" / f"{stem(benchmark, variant)}.{rules}.jsonl"

    def summary_path(self, benchmark: str, rules: str, variant: VariantKey = DEFAULT) -> Path:
        """Return the path of the summary of all samples' scores."""
        return self.folder / "scores" / f"{stem(benchmark, variant)}.{rules}.json"

    def read_summary(self, path: Path) -> Any:
        """Return the content of a summary of this run's scores, cached until the file changes.

        Raises UserError as `read_json` does.
        """
        try:
            status = path.stat()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        state = (status.st_ino, status.st_size, status.st_mtime_ns)
        kept = self._summaries.get(path)
        if kept is None or kept.state != state:
            kept = self._summaries[path] = _KeptSummary(state, read_json(path))
        return kept.content

    @cached_property
    def _summaries(self) -> dict[Path, _KeptSummary]:
        return {}


class External(RunFolder):
    """A row that was not trained here, with a name (`label`), evaluated on the data of a pin (`data_pin`)."""

    label: str
    data_pin: str

    @property
    def stem(self) -> str:
        return f"{self.label}-{self.data_pin}"

    @property
    def data(self) -> str:
        return self.data_pin


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the content of a folder's manifest.json; empty where it is missing or damaged."""
    try:
        manifest = read_json(folder / "manifest.json")
    except UserError:
        return {}
    kinds = {"sessions": list, "files": dict}
    if not isinstance(manifest, dict):
        return {}
    return manifest if all(isinstance(manifest.get(key, kind()), kind) for key, kind in kinds.items()) else {}
