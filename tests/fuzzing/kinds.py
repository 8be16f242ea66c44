"""The kinds of files that are changed, by name; what each imports is imported in its own process."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from fuzzing.running import Made, Subject

_OF = {
    "data": ("image", "map", "parquet", "csv", "training rows", "captions", "zip archive"),
    "configs": ("encoder yaml", "llm yaml", "recipe yaml", "benchmark yaml", "probe yaml", "alignment yaml",
                "external yaml"),
    "models": ("safetensors header", "llm config", "encoder config", "tokenizer", "checkpoint", "checkpoint resummed"),
    "gguf": ("gguf",),
    "corpora": ("filter tar", "filter parquet", "filter folder", "leaks tar", "leaks parquet", "leaks folder",
                "leaks rows"),
    "answers": ("answers", "cambrian answers", "lmms-eval samples", "sheet", "xlsx sheet", "journal"),
    "records": ("run record", "hub lock", "data lock", "feature shard"),
}  # fmt: skip


def prepare(kinds: Iterable[str]) -> None:
    """Import what these kinds need: who forks afterwards does not do it again."""
    for module, known in _OF.items():
        if set(known) & set(kinds):
            import_module(f"fuzzing.{module}")


def _late(module: str, kind: str) -> Made:
    def made(home: Path) -> Subject:
        subject: Subject = import_module(f"fuzzing.{module}").SUBJECTS[kind](home)
        return subject

    return made


KINDS: dict[str, Made] = {kind: _late(module, kind) for module, kinds in _OF.items() for kind in kinds}
