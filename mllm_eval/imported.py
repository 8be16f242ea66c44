"""Answers that were made elsewhere, stored as a row of the table with a name and a data pin, without weights."""

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
    """The field `imported` of the folder's config.yaml."""

    name: str
    data: str


class ImportedFile(Strict):
    """The content of the folder's config.yaml."""

    imported: ImportedConfig


@dataclass(frozen=True)
class Imported(External):
    """Imported answers: the name that the user gave them (`label`), and the data pin that they answer (`data_pin`)."""

    label: str
    data_pin: str

    @classmethod
    def of(cls, name: str, data: str) -> Imported:
        """Return the row with this name.

        Raises UserError for an invalid name: over 80 characters, with characters other than letters, digits and
        . _ + -, or like a run's hash.
        """
        if not _NAME.fullmatch(name) or re.fullmatch(r"[0-9a-f]{4,12}", name):
            raise UserError(f"{name!r} can't name a row: up to 80 letters, digits and . _ + -, and no hash of a run")
        return cls(name, data)

    @classmethod
    def load(cls, folder: Path) -> Imported:
        """Return the row of a folder under results/runs. Raises UserError for a folder of another kind."""
        said = load(folder / "config.yaml", ImportedFile).imported
        return cls(said.name, said.data)

    @cached_property
    def hash(self) -> str:
        """12 hex digits of a hash of name and data pin, so that later imports under a name join the same row."""
        return short_hash({"imported": self.label, "data": self.data_pin})

    @property
    def heading(self) -> str:
        return f"{self.label}, imported answers"

    def config(self) -> dict[str, Any]:
        """Return name and data pin as plain data."""
        return {"imported": ImportedConfig(name=self.label, data=self.data_pin).model_dump(mode="json")}

    def note_session(self) -> None:
        """Write manifest.json with the environment of the first import, unless it exists."""
        if not self.manifest():
            write_json(self.folder / "manifest.json", {"run": self.name, "hash": self.hash, "sessions": [describe()]})

    def note_file(self, title: str, about: dict[str, Any]) -> None:
        """Record in manifest.json the file from which the answers to a benchmark's variant come."""
        held = self.manifest()
        write_json(self.folder / "manifest.json", {**held, "files": {**held.get("files", {}), title: about}})
