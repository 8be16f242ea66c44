"""Images with their captions, from parquet files; a row that can't be read is named, and the others are used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image

from mllm_eval.alignment.protocol import Alignment, PairColumns, PairsLocation
from mllm_eval.config import short_hash
from mllm_eval.data.parquet import open_parquet, rows_in
from mllm_eval.data.snapshotlock import matching
from mllm_eval.decoding import decode
from mllm_eval.errors import UserError, near
from mllm_eval.hub import Source, locked_folder
from mllm_eval.hub.fetch import adopt
from mllm_eval.hub.fetch import fetch as fetch_files
from mllm_eval.pipeline.reporter import Reporter, Silent
from mllm_eval.pipeline.sources import provide
from mllm_eval.storage import locate, sha256_file


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """An image, which `load` decodes, with its caption. `where` is file and row, for messages."""

    where: str
    load: Callable[[], PIL.Image.Image]
    text: str


@dataclass(frozen=True, slots=True)
class PairSet:
    """The pairs in order, the reasons of the rows that failed, and a hash of the files and columns that were read."""

    pairs: list[CaptionedImage]
    failed: list[str]
    identity: str


def load_pairs(protocol: Alignment, pin: str, reporter: Reporter | None = None) -> PairSet:
    """The pairs of a data pin. Pairs that this project makes itself are made if they are missing.

    Raises:
        UserError: an unknown pin, no files, a file that is no parquet or lacks a column. A row without image or caption
            is listed in `failed` instead.
    """
    if source_of(protocol, pin) is None:
        provide([locate(str(_place(protocol, pin).path))], reporter or Silent())
    files = _files(protocol, pin)
    pairs: list[CaptionedImage] = []
    failed: list[str] = []
    for path in files:
        for where, row in _rows(path, protocol.columns):
            try:
                pairs.append(_pair(where, row, protocol.columns))
            except UserError as problem:
                failed.append(str(problem))
    identity = short_hash([[sha256_file(path) for path in files], protocol.columns], 16)
    return PairSet(pairs, failed, identity)


def fetch_pairs(protocol: Alignment, pin: str, folder: Path | None, reporter: Reporter) -> None:
    """Fetches a pin's pairs from the hub, or takes them from `folder`, and locks them. Does nothing for local files.

    Raises UserError if they can't be fetched.
    """
    place, source = _place(protocol, pin), source_of(protocol, pin)
    if source is None:
        return
    if folder is not None:
        adopt(source, lambda names: matching(names, place.files), folder)
        return
    with reporter.step(str(source)) as progress:
        fetch_files(source, lambda names: matching(names, place.files), None, progress)


def _place(protocol: Alignment, pin: str) -> PairsLocation:
    if pin not in protocol.data:
        known = ", ".join(sorted(protocol.data))
        raise UserError(f"alignment {protocol.name}: has no data {pin!r} (known: {known}).{near(pin, protocol.data)}")
    return protocol.data[pin]


def source_of(protocol: Alignment, pin: str) -> Source | None:
    """The hub repository of a pin; None for local files."""
    place = _place(protocol, pin)
    if place.repo is None:
        return None
    return Source("dataset", place.repo, place.revision, f"fetch it: mllm-eval align --fetch --data {pin}")


def _files(protocol: Alignment, pin: str) -> list[Path]:
    place, source = _place(protocol, pin), source_of(protocol, pin)
    folder = locked_folder(source) if source is not None else locate(str(place.path))
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    paths = [folder / name for name in sorted(matching(names, place.files))]
    if not paths:
        raise UserError(f"{folder}: no files {place.files} of pictures and captions; correct `files` in the protocol")
    return paths


def _rows(path: Path, columns: PairColumns) -> Iterator[tuple[str, dict[str, Any]]]:
    file = open_parquet(path)
    names = file.schema_arrow.names
    for column in (columns.image, columns.text):
        if column not in names:
            raise UserError(f"{path}: has no column {column!r}.{near(column, names)} Set `columns` in the protocol")
    for number, row in enumerate(rows_in(path, file, columns=[columns.image, columns.text]), start=1):
        yield f"{path}:{number}", row


def _pair(where: str, row: dict[str, Any], columns: PairColumns) -> CaptionedImage:
    text = row[columns.text]
    if isinstance(text, list):
        text = text[0] if text else None
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{where}: {columns.text} is empty; write a caption, or leave the row out")
    image = row[columns.image]
    data = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(data, bytes):
        raise UserError(f"{where}: {columns.image} holds no picture; put its bytes there, or leave the row out")
    return CaptionedImage(where, lambda: decode(data, where), text)
