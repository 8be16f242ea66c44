"""Answers that were made elsewhere and are kept as a row: no weights, no recipe, a name and the data they answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mllm_eval.config import Strict, load, short_hash
from mllm_eval.environment import describe
from mllm_eval.errors import UserError
from mllm_eval.run import External
from mllm_eval.storage import write_json

_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,79}")


class ImportedConfig(Strict):
    """What config.yaml of the folder holds under `imported`."""

    name: str
    data: str


class ImportedFile(Strict):
    """What config.yaml of the folder holds."""

    imported: ImportedConfig


@dataclass(frozen=True)
class Imported(External):
    """Whose answers these are, in the words of who brought them, and the data pin whose questions they answer."""

    label: str
    data_pin: str

    @classmethod
    def of(cls, name: str, data: str) -> Imported:
        """Raises UserError for a name that can't name a row: of letters, digits and . _ + -, or like a run's hash."""
        if not _NAME.fullmatch(name) or re.fullmatch(r"[0-9a-f]{4,12}", name):
            raise UserError(f"{name!r} can't name a row: up to 80 letters, digits and . _ + -, and no hash of a run")
        return cls(name, data)

    @classmethod
    def load(cls, folder: Path) -> Imported:
        """The answers of a folder under results/runs. Raises UserError where the folder is not one of imported ones."""
        said = load(folder / "config.yaml", ImportedFile).imported
        return cls(said.name, said.data)

    @cached_property
    def hash(self) -> str:
        """12 hex digits of name and data: more answers under the same name go to the same row."""
        return short_hash({"imported": self.label, "data": self.data_pin})

    @property
    def heading(self) -> str:
        return f"{self.label}, imported answers"

    def config(self) -> dict[str, Any]:
        """Name and data pin."""
        return {"imported": ImportedConfig(name=self.label, data=self.data_pin).model_dump(mode="json")}

    def note_session(self) -> None:
        """Write manifest.json where there is none: the environment of the first import."""
        if not self.manifest():
            write_json(self.folder / "manifest.json", {"run": self.name, "hash": self.hash, "sessions": [describe()]})

    def note_file(self, title: str, about: dict[str, Any]) -> None:
        """Add to manifest.json which file the answers to a benchmark, and variant, are from."""
        held = self.manifest()
        write_json(self.folder / "manifest.json", {**held, "files": {**held.get("files", {}), title: about}})
