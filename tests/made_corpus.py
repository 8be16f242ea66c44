"""Corpora of tiny pictures in every layout, and a judge that looks at their brightness and needs no model."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from mllm_eval.filtering import Corpus, Filtered, FilterSettings, Judgement, Places, Work, filter_corpus, open_corpus
from mllm_eval.filtering.corpusrun import Do

THRESHOLD = 0.5
# What also tells of the machine, the hour or the place.
OWN = ("timings.jsonl", "report.html", "filter.json")


def png(grey: int, size: tuple[int, int] = (6, 5)) -> bytes:
    """A picture of one grey; bright ones (from 128) are kept."""
    out = io.BytesIO()
    PIL.Image.new("RGB", size, (grey, grey, grey)).save(out, "PNG")
    return out.getvalue()


def tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    """An archive of these members in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def sample(key: str, grey: int, caption: str | None = "a picture", **fields: Any) -> list[tuple[str, bytes]]:
    """A picture, its caption and its .json."""
    found = [(f"{key}.png", png(grey))]
    if caption is not None:
        found.append((f"{key}.txt", caption.encode()))
    return [*found, (f"{key}.json", json.dumps(fields).encode())] if fields else found


def tars(folder: Path, shards: int = 3, each: int = 5) -> Path:
    """Shards whose pictures go from black to white, labelled `bright` by what they are."""
    for number in range(shards):
        greys = [(number * each + place) * 255 // (shards * each - 1) for place in range(each)]
        members = [one for place, grey in enumerate(greys)
                   for one in sample(f"{number}-{place}", grey, bright=grey >= 128)]  # fmt: skip
        tar(folder / f"{number:05d}.tar", members)
    return folder


class Brightness:
    """p(yes) is the mean brightness."""

    def __init__(self, batch: int = 2) -> None:
        self.batch = batch
        self.about: dict[str, Any] = {"by": "test", "yes": ["yes"], "no": ["no"]}

    def prepare(self, image: PIL.Image.Image) -> float:
        return float(np.asarray(image).mean()) / 255

    def judge(self, prepared: Sequence[float]) -> list[Judgement | str]:
        assert len(prepared) <= self.batch
        return [Judgement(one, 0.9) for one in prepared]


def work(
    place: Path,
    out: Path,
    judge: Callable[[], Any] = Brightness,
    config: Mapping[str, Any] | None = None,
    **asked: Any,
) -> Work:
    """The work of filtering a corpus."""
    told = {"model": "brightness", **(config or {})}
    return Work(open_corpus(place), FilterSettings("key", THRESHOLD, **asked), Places(out), told, judge)


def filtered(place: Path, out: Path, do: Do | None = None, **options: Any) -> Filtered:
    """A corpus filtered by brightness."""
    return filter_corpus(work(place, out, **options), do)


def decisions(out: Path) -> list[dict[str, Any]]:
    """All decisions, in the order of the shards' names."""
    import pyarrow.parquet as pq

    return [row for path in sorted((out / "decisions").rglob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def files(out: Path) -> dict[str, bytes]:
    """The bytes of all that hangs on the pictures and the model alone."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*"))
            if path.is_file() and path.name not in (*OWN, ".lock")}  # fmt: skip


__all__ = ["Brightness", "Corpus", "decisions", "files", "filtered", "png", "sample", "tar", "tars", "work"]
