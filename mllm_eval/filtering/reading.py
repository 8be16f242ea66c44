"""Reads the images of a shard one at a time, with their faults. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mllm_eval.data.parquet import open_parquet
from mllm_eval.data.shards import Broken, Member, first_line, is_picture, name_of, tar_members
from mllm_eval.errors import UserError
from mllm_eval.filtering.columns import NoColumn, ShardColumns, columns_of, hold_to_label
from mllm_eval.filtering.corpus import Shard, file_key, stem_of
from mllm_eval.storage import parse_json

TRUE, FALSE = ("1", "true", "yes", "y"), ("0", "false", "no", "n")


class Entry(NamedTuple):
    """An image of a shard.

    key: unique in the shard, except for entries whose fault is a repeated key. where: file and member, for messages.
    data: the encoded image; None with a fault. fault: a key of `FAULTS`, or ""; reason: the fault in words. captioned:
    whether it has a caption. label: the label in the corpus, or None.
    """

    key: str
    where: str
    data: bytes | None
    fault: str = ""
    reason: str = ""
    captioned: bool = False
    label: bool | None = None


FAULTS = {
    "cut": "shards end before their end",
    "unreadable": "shards cannot be opened",
    "no column": "parquet files lack a column that is asked for, or one of pictures",
    "key twice": "pictures have a key that was there before; the first counts",
    "no picture": "keys have no picture",
    "no image": "members are no image that can be decoded",
    "no answer": "pictures got no answer of yes or no",
    "no caption": "pictures have no caption where others of their shard have one",
    "no label": "pictures have no label where one was asked for, or one that is neither yes nor no",
}
"""Kinds of faults. Faults of a whole shard have no entry; images without caption or label are decided all the same."""


def entries(shard: Shard, label: str | None = None, image_column: str | None = None) -> Iterator[Entry]:
    """The images of a shard in order. After the first image of a key, others with the same key are faults.

    label: the field that holds the label, in the .json of an image or as a column of a parquet file. Raises Broken if
    the shard can't be read further, and UserError if it lacks what was asked for.
    """
    if shard.kind == "parquet":
        samples = _of_parquet(shard, label, image_column)
    else:
        samples = (one for members, _ in keyed_members(shard) for one in _sample(shard, members, label))
    seen: set[bytes] = set()
    for one in samples:
        # Only a 16-byte digest of each key is kept, for one shard at a time.
        mark = hashlib.blake2b(one.key.encode(), digest_size=16).digest()
        if mark in seen and not one.fault:
            one = one._replace(data=None, fault="key twice", reason=f"key {one.key!r} is there twice")
        seen.add(mark)
        yield one


def _of_files(shard: Shard) -> Iterator[Member]:
    for name in shard.files:
        try:
            yield Member(name_of(name), Path(shard.path, name).read_bytes())
        except OSError as problem:
            yield Member(name_of(name), None, f"it cannot be read ({problem.strerror})")


def keyed_members(shard: Shard) -> Iterator[tuple[list[Member], int]]:
    """Adjacent members with the same key, which are a sample of WebDataset, and the number of their entries.

    Raises Broken after the last of them if the shard can't be read further.
    """
    held: list[Member] = []
    key_of = _key_of(shard)
    try:
        for member in tar_members(shard.path) if shard.kind == "tar" else _of_files(shard):
            if held and key_of(member.name) != key_of(held[0].name):
                yield held, _count(held)
                held = []
            held.append(member)
    except Broken:
        if held:
            yield held, _count(held)
        raise
    if held:
        yield held, _count(held)


def _key_of(shard: Shard) -> Callable[[str], str]:
    return stem_of if shard.kind == "tar" else file_key


def _count(members: list[Member]) -> int:
    return max(1, len(_pictures(members)))


def _pictures(members: list[Member]) -> list[Member]:
    return [one for one in members if is_picture(one.name)]


def _sample(shard: Shard, members: list[Member], label: str | None) -> Iterator[Entry]:
    key = _key_of(shard)(members[0].name)
    shown = _pictures(members)
    beside = {one.name[len(key) + 1 :].lower(): one.data for one in members if one not in shown}
    fields = _fields(beside.get("json"))
    captioned = bool((beside.get("txt") or b"").strip() or str(fields.get("caption") or "").strip())
    told = None if label is None else truth(fields.get(label))
    if not shown:
        names = ", ".join(one.name for one in members)
        yield Entry(key, f"{shard.shown}: {key}", None, "no picture", f"{names}: no picture among them")
        return
    for number, one in enumerate(shown):
        where = f"{shard.shown}: {one.name}"
        if number:
            yield Entry(key, where, None, "key twice", f"{one.name}: key {key!r} has {shown[0].name} already")
        elif one.data is None:
            yield Entry(key, where, None, "no image", f"{one.name}: {one.reason}")
        else:
            yield Entry(key, where, one.data, captioned=captioned, label=told)


def _fields(data: bytes | None) -> dict[str, Any]:
    try:
        fields = parse_json(data or b"{}", fields_once=False)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def truth(value: Any) -> bool | None:
    """A label as a bool; None if it is neither yes nor no."""
    text = str(int(value) if isinstance(value, bool | float) and value in (0, 1) else value).strip().lower()
    return True if text in TRUE else False if text in FALSE else None


def _of_parquet(shard: Shard, label: str | None, image_column: str | None) -> Iterator[Entry]:
    import pyarrow as pa

    try:
        open(shard.path, "rb").close()
    except OSError as problem:
        raise UserError(f"{shard.shown}: cannot be read ({problem.strerror or problem})") from None
    try:
        file = open_parquet(Path(shard.path))
    except UserError as problem:
        raise Broken("unreadable", str(problem)) from None
    try:
        columns = columns_of(file.schema_arrow, shard.shown, image_column)
        hold_to_label(file.schema_arrow, shard.shown, label)
    except NoColumn as problem:
        # Other files may have it; `hold_to_columns` has refused a corpus where none has.
        raise Broken("no column", str(problem)) from None
    wanted = [name for name in (*columns.read, label) if name is not None]
    number = 0
    try:
        for batch in file.iter_batches(batch_size=64, columns=list(dict.fromkeys(wanted))):
            for row in batch.to_pylist():
                yield _of_row(shard, columns, row, number, label)
                number += 1
    except (pa.ArrowException, UnicodeDecodeError) as problem:
        raise Broken("cut", f"{shard.shown}: ends behind {number} rows ({first_line(problem)})") from None
    except OSError as problem:
        if problem.errno is not None:
            raise UserError(f"{shard.shown}: cannot be read ({problem.strerror})") from None
        raise Broken("cut", f"{shard.shown}: ends behind {number} rows ({first_line(problem)})") from None


def hold_to_columns(shards: Iterable[Shard], label: str | None, image_column: str | None) -> None:
    """Raises UserError if the parquet files lack what was asked for, all of them; one that lacks it is a fault."""
    first: NoColumn | None = None
    labels: NoColumn | None = None
    for shard in shards:
        try:
            schema = open_parquet(Path(shard.path)).schema_arrow
        except UserError:
            continue
        try:
            columns_of(schema, shard.shown, image_column)
        except NoColumn as problem:
            first = first or problem
            continue
        try:
            hold_to_label(schema, shard.shown, label)
            return
        except NoColumn as problem:
            labels = labels or problem
    if lacking := labels or first:
        raise lacking


def _of_row(shard: Shard, columns: ShardColumns, row: dict[str, Any], number: int, label: str | None) -> Entry:
    value = row.get(columns.key) if columns.key else None
    key = f"{number:09d}" if value is None else str(value).encode("utf-8", "backslashreplace").decode()
    where = f"{shard.shown} row {number}"
    data, told = row[columns.image], None if label is None else truth(row[label])
    if isinstance(data, dict):
        data = data.get("bytes")
    if not data:
        said = " ".join(str(row[name]) for name in columns.status if row.get(name))
        return Entry(key, where, None, "no picture", f"row {number}: no bytes{f' ({said})' if said else ''}")
    captioned = any(str(row[name] or "").strip() for name in columns.captions)
    return Entry(key, where, bytes(data), captioned=captioned, label=told)
