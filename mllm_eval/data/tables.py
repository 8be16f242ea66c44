"""Reads tables of a snapshot as rows: parquet files in the hub's layout, or a csv beside an image folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllm_eval.catalog.benchmark import Pin
from mllm_eval.data.cells import columns_of, csv_lines, filled_in, typed
from mllm_eval.data.columntypes import check_columns, named_columns, type_name
from mllm_eval.data.images import CellPicture, FilePicture, digest
from mllm_eval.data.parquet import open_parquet, rows_in
from mllm_eval.data.samples import Pictures
from mllm_eval.decoding import PLAIN, Decoding
from mllm_eval.errors import UserError
from mllm_eval.storage import data_home, within


@dataclass(frozen=True, slots=True)
class DataRow:
    """A row: its place (for messages), its columns without images, and its images by column.

    If the row leaves an image column empty, its entry in `images` is an empty tuple.
    """

    where: str
    record: dict[str, Any]
    images: dict[str, Pictures]


def pictures_beside(pin: Pin, aliases: Mapping[str, str], files: Sequence[Path]) -> Iterator[str]:
    """Yield the image files that the rows of a pin's csv name; nothing for other tables. The files are not opened."""
    for path in files if pin.image_files else ():
        if path.suffix == ".csv":
            template, folder = str(pin.image_files), str(path.parent)
            used = {column: pin.columns.get(column, "string") for column in columns_of(template)}
            for where, named in csv_lines(path, aliases):
                cells = {key: typed(named[key], kind, key, where) for key, kind in used.items() if key in named}
                yield f"{folder}/{filled_in(template, cells, where)}"


def all_pictures_beside(pin: Pin, aliases: Mapping[str, str], files: Mapping[str, Sequence[Path]]) -> list[str]:
    """Return the `pictures_beside` all tables of a pin, each once. files: table -> its files.

    Raises UserError for a csv that can't be read.
    """
    paths = (
        path for name, part in pin.tables().items() for path in pictures_beside(part, aliases, files.get(name, ()))
    )
    return list(dict.fromkeys(paths))


def files_of(pin: Pin) -> list[Path]:
    """The files of a local pin, sorted by name. Raises UserError if there are none."""
    folder = data_home() / pin.repo
    paths = sorted(folder.glob(pin.pattern))
    if not paths:
        raise UserError(f"{folder / pin.pattern}: no such files. `mllm-eval data` fetches or makes them.")
    return paths


def rows_of(pin: Pin, aliases: Mapping[str, str], files: Sequence[Path], how: Decoding = PLAIN) -> Iterator[DataRow]:
    """Yield all rows of a pin's files. Images are hashed while reading, and their bytes are dropped.

    Columns are renamed by `aliases` (upstream name -> new name) before they are checked. how: how images are decoded.
    Raises UserError with file and row for wrong columns, cells that can't be read, and missing images.
    """
    for path in files:
        yield from (_csv_rows if path.suffix == ".csv" else _parquet_rows)(path, pin, aliases, how)


def _parquet_rows(path: Path, pin: Pin, aliases: Mapping[str, str], how: Decoding) -> Iterator[DataRow]:
    file = open_parquet(path)
    upstream = named_columns((field.name for field in file.schema_arrow), aliases, str(path))
    kinds = {name: type_name(file.schema_arrow.field(own).type) for name, own in upstream.items()}
    check_columns(kinds, pin.columns, str(path))
    pictures = [name for name, kind in kinds.items() if kind in ("image", "list<image>")]
    pictures += [name for name, kind in pin.columns.items() if "image" in kind and kinds.get(name) == "null"]
    retyped = {name: kind for name, kind in pin.columns.items() if "|" in kind and kinds[name] == "string"}
    number = 0
    for group in range(file.num_row_groups):
        for index, row in enumerate(rows_in(path, file, [group])):
            where = f"{path} row {number}"
            images = {
                name: _pictures(row[upstream[name]], path, group, upstream[name], index, number, how)
                for name in pictures
            }
            record = {name: row[own] for name, own in upstream.items() if name not in images}
            for name, kind in retyped.items():
                record[name] = typed(record[name], kind, name, where)
            yield DataRow(where, record, images)
            number += 1


def _pictures(value: Any, path: Path, group: int, column: str, row: int, number: int, how: Decoding) -> Pictures:
    values = value if isinstance(value, list) else [] if value is None else [value]
    place, file = f"{path} row {number}, column '{column}'", str(path)
    return tuple(
        CellPicture(
            digest(item["bytes"] if item else None, place, how), file, group, column, row, position, number, how
        )
        for position, item in enumerate(values)
    )


def _csv_rows(path: Path, pin: Pin, aliases: Mapping[str, str], how: Decoding) -> Iterator[DataRow]:
    for number, (where, named) in enumerate(csv_lines(path, aliases)):
        if not number:
            check_columns({key: pin.columns.get(key, "string") for key in named}, pin.columns, str(path))
        record = {key: typed(value, pin.columns.get(key, "string"), key, where) for key, value in named.items()}
        images: dict[str, Pictures] = {}
        if pin.image_files:
            images["image"] = (
                _file(_below(path.parent, filled_in(pin.image_files, record, where), where), where, how),
            )
        yield DataRow(where, record, images)


def _below(folder: Path, name: str, where: str) -> Path:
    try:
        return within(folder, name)
    except ValueError as problem:
        raise UserError(f"{where}: its image {problem}") from None


def _file(path: Path, where: str, how: Decoding) -> FilePicture:
    if not path.is_file():
        raise UserError(f"{where}: its image {path} is missing")
    place = f"{where}, {path}"
    return FilePicture(digest(path.read_bytes(), place, how), str(path), place, how)
