"""Decides one shard: judges its images in batches and writes the decisions, completely or not at all. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_eval.data.shards import Broken
from mllm_eval.filtering.answering import judge_entries
from mllm_eval.filtering.corpus import Shard
from mllm_eval.filtering.judging import Judge, Judgement
from mllm_eval.filtering.reading import Entry, entries
from mllm_eval.filtering.tally import NAMED, NearThreshold, Tally
from mllm_eval.filtering.writing import write_kept
from mllm_eval.storage import replacing, sha256_bytes

if TYPE_CHECKING:
    import pyarrow as pa

# Rows of a row group, which is also the largest number of decisions in memory.
ROWS = 8192
META = b"mllm_eval.filter"
KEPT, DROPPED, FAILED = "kept", "dropped", "failed"


@dataclass(frozen=True)
class FilterSettings:
    """The settings of a filter.

    key: hash of the filter; decisions of another filter are not reused. threshold: the lowest p(yes) at which an image
    is kept. label, image_column: see `entries`. shards: whether to write the kept images as shards too.
    """

    key: str
    threshold: float
    label: str | None = None
    image_column: str | None = None
    shards: bool = False


@dataclass(frozen=True)
class Places:
    """The paths of the files of a filtered corpus."""

    out: Path

    def decisions(self, shard: str) -> Path:
        """The decisions of a shard. The shard is done once this file exists."""
        return self.out / "decisions" / f"{shard}.parquet"

    def index(self, shard: str) -> Path:
        """The keys of the shard's kept images, one per line."""
        return self.out / "kept" / f"{shard}.txt"

    def shard(self, shard: Shard) -> Path:
        """The shard that holds only the kept images."""
        return self.out / "shards" / (f"{shard.name}.tar" if shard.kind == "files" else shard.name)


def tally_of(shard: Shard, asked: FilterSettings, places: Places) -> Tally | None:
    """The counts of a shard that was decided by this filter and has not changed since; else None."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = places.decisions(shard.name)
    needed = [places.index(shard.name), *([places.shard(shard)] if asked.shards else [])]
    if not path.is_file() or not all(one.is_file() for one in needed):
        return None
    source = shard.signature()
    try:
        # pyarrow refuses a path that is no valid UTF-8.
        with open(path, "rb") as file:
            said = json.loads(pq.read_metadata(file).metadata[META])
        # The checksum detects corruption on disk; earlier versions wrote none.
        if said["filter"] != asked.key or said["source"] != source or said.get("sum", _sum(said)) != _sum(said):
            return None
        return Tally.of_dict(said["tally"])
    except (pa.ArrowException, OSError, LookupError, TypeError, ValueError, AttributeError):
        return None


def decide_shard(shard: Shard, judge: Judge, asked: FilterSettings, places: Places) -> Tally:
    """Judges the images of a shard and writes its files; existing ones are replaced, the decisions last.

    Raises UserError for errors that a retry can't solve. Errors in single images are counted instead.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    source, tally, kept = shard.signature(), Tally(), bytearray()
    captions = _Captions()
    labelled = asked.label is not None
    schema = _schema(labelled)
    path = places.decisions(shard.name)
    with replacing(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        columns: dict[str, list[Any]] = {name: [] for name in schema.names}

        def flush() -> None:
            writer.write_table(pa.table(columns, schema))
            for values in columns.values():
                values.clear()

        with replacing(places.index(shard.name)) as index:
            for entry, judged in judge_entries(_read(shard, asked, tally), judge):
                row = _row(shard, entry, judged, asked, tally)
                captions.look(entry)
                kept.append(row["decision"] == KEPT)
                if kept[-1]:
                    index.write(f"{in_one_line(entry.key)}\n".encode())
                for name, values in columns.items():
                    values.append(row[name])
                if len(columns["key"]) >= ROWS:
                    flush()
        if columns["key"]:
            flush()
        captions.tell(tally, shard.name)
        tally.close()
        if asked.shards:
            write_kept(shard, kept, places.shard(shard))
        else:
            # Images kept by earlier decisions on other bytes of this shard.
            places.shard(shard).unlink(missing_ok=True)
        said = {"filter": asked.key, "source": source, "shard": shard.name, "tally": tally.to_dict()}
        said["sum"] = _sum(said)
        writer.add_key_value_metadata({META: json.dumps(said, ensure_ascii=False, sort_keys=True).encode()})
    return tally


def _sum(said: dict[str, Any]) -> str:
    """A checksum of a shard's counts, 16 hex digits."""
    own = {name: value for name, value in said.items() if name != "sum"}
    return sha256_bytes(json.dumps(own, sort_keys=True).encode())[:16]


def in_one_line(key: str) -> str:
    """A key as a line of the index: line breaks become `\\n` and `\\r`."""
    return key.replace("\n", "\\n").replace("\r", "\\r")


def _read(shard: Shard, asked: FilterSettings, tally: Tally) -> Iterator[Entry]:
    try:
        yield from entries(shard, asked.label, asked.image_column)
    except Broken as problem:
        tally.fault(problem.fault, problem.reason)


def _row(shard: Shard, entry: Entry, judged: Judgement | str, asked: FilterSettings, tally: Tally) -> dict[str, Any]:
    own: dict[str, Any] = {"key": entry.key, "p_yes": None, "mass": None, "decision": FAILED, "reason": None}
    if isinstance(judged, str):
        tally.failed += 1
        tally.bytes += len(entry.data or b"")
        tally.fault(entry.fault, f"{entry.where}: {judged.removeprefix(f'{entry.where}: ')}")
        own["reason"] = judged
    else:
        keeps = judged.p_yes >= asked.threshold
        own |= {"p_yes": judged.p_yes, "mass": judged.mass, "decision": KEPT if keeps else DROPPED}
        near = NearThreshold(judged.p_yes, shard.name, entry.key)
        tally.decide(near, judged.mass, keeps, len(entry.data or b""), entry.label)
        if asked.label is not None and entry.label is None:
            tally.fault("no label", f"{entry.where}: no label {asked.label!r} that is yes or no")
    return {**own, "caption": entry.captioned, **({"label": entry.label} if asked.label is not None else {})}


class _Captions:
    """Collects the images without a caption: they are faults only if other images of the shard have captions."""

    def __init__(self) -> None:
        self.with_, self.without = 0, 0
        self.first: list[str] = []

    def look(self, entry: Entry) -> None:
        if entry.data is None:
            return
        if entry.captioned:
            self.with_ += 1
            return
        self.without += 1
        if len(self.first) < NAMED:
            self.first.append(entry.where)

    def tell(self, tally: Tally, shard: str) -> None:
        if self.with_ and self.without:
            for place in range(self.without):
                tally.fault("no caption", self.first[place] if place < len(self.first) else "")


def _schema(labelled: bool) -> pa.Schema:
    import pyarrow as pa

    fields = [
        ("key", pa.string()),
        ("p_yes", pa.float64()),
        ("mass", pa.float64()),
        ("decision", pa.dictionary(pa.int8(), pa.string())),
        ("reason", pa.string()),
        ("caption", pa.bool_()),
    ]
    return pa.schema([*fields, *([("label", pa.bool_())] if labelled else [])])
