"""Filters a corpus shard by shard: finished shards are kept, the others are decided, and all are counted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mllm_eval import disk
from mllm_eval.data.shards import name_of
from mllm_eval.disk import saving
from mllm_eval.environment import describe
from mllm_eval.errors import UserError
from mllm_eval.filtering.corpus import Corpus, Shard
from mllm_eval.filtering.deciding import FilterSettings, Places, decide_shard, tally_of
from mllm_eval.filtering.gone import decided, separate
from mllm_eval.filtering.judging import Judge
from mllm_eval.filtering.reading import hold_to_columns
from mllm_eval.filtering.tally import Tally
from mllm_eval.locks import FileLock
from mllm_eval.progress import Progress, unheard
from mllm_eval.storage import parse_json, read_json, remove_temporary, write_json

CONFIG, SUMMARY, TIMINGS = "filter.json", "summary.json", "timings.jsonl"
# Seconds between two shards that still count as work.
PAUSE = 1.0


@dataclass(frozen=True)
class Spent:
    """The number of judged images, and the wall and CPU seconds that they took, decoding and writing included.

    seconds: during which at least one process worked. cpu_seconds: of all processes together.
    """

    pictures: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0


@dataclass(frozen=True)
class Filtered:
    """A filtered corpus.

    about: settings of the judge, including its spellings of yes and no. spent: time over all calls. gone: decided
    shards that are no longer in the corpus, which do not count.
    """

    out: Path
    config: dict[str, Any]
    about: dict[str, Any]
    tally: Tally
    shards: int
    spent: Spent
    left_out: tuple[str, ...] = ()
    gone: int = 0


@dataclass(frozen=True)
class Work:
    """The work on one corpus. `judge` loads the model; it is called only if shards are left to decide."""

    corpus: Corpus
    asked: FilterSettings
    places: Places
    config: Mapping[str, Any]
    judge: Callable[[], Judge]


Do = Callable[[Work, Iterable[Shard]], Iterator[tuple[str, Tally]]]
"""Decides shards in any order, by any number of processes; yields each shard's name and counts when it is done."""


def filter_corpus(work: Work, do: Do | None = None, progress: Progress = unheard) -> Filtered:
    """Decides all shards that are not decided yet, and counts all.

    A call that was killed can be repeated, and ends with the same bytes. `do` decides the shards (default: one after
    another in this process). Raises UserError if `out` holds the decisions of another filter or another corpus.
    """
    out = work.places.out
    with FileLock(out / ".lock"):
        about = _hold(work)
        _sweep(out)
        count = work.corpus.count
        gone = separate(work.places, work.corpus, count)
        if work.corpus.kind == "parquet":
            hold_to_columns(work.corpus.shards(), work.asked.label, work.asked.image_column)
        whole, todo = Tally(), list[Shard]()
        done = 0
        for shard in work.corpus.shards():
            if (finished := tally_of(shard, work.asked, work.places)) is not None:
                whole.add(finished)
                done += 1
            else:
                todo.append(Shard(shard.name, shard.kind, shard.path))
        progress(done, count)
        if todo:
            wanted = {shard.name for shard in todo}
            del todo
            undone = (shard for shard in work.corpus.shards() if shard.name in wanted)
            for _, tally in (do or one_by_one)(work, undone):
                whole.add(tally)
                done += 1
                progress(done, count)
            about = _read_config(work.places)["judge"]
            # A worker on Ray that died may have left temporary files.
            _sweep(out)
        _write_config(work, about)
        spent = read_spent(out)
        made = Filtered(out, dict(work.config), about, whole, count, spent, work.corpus.left_out, gone)
        write_json(out / SUMMARY, summary(made))
    return made


def one_by_one(work: Work, shards: Iterable[Shard]) -> Iterator[tuple[str, Tally]]:
    """Decides the shards in their order, in this process."""
    judge = work.judge()
    record_judge(judge, work.places)
    for shard in shards:
        yield shard.name, timed(shard, judge, work.asked, work.places)


def record_judge(judge: Judge, places: Places) -> None:
    """Records the settings of a judge before it decides anything; several processes with the same judge may do so."""
    said = _read_config(places)
    if said.get("judge") != judge.about:
        write_json(places.out / CONFIG, {**said, "judge": judge.about})


def timed(shard: Shard, judge: Judge, asked: FilterSettings, places: Places) -> Tally:
    """Calls `decide_shard` and appends a line with its time to the timings."""
    began, wall, cpu = time.time(), time.perf_counter(), time.process_time()
    tally = decide_shard(shard, judge, asked, places)
    line = {"shard": shard.name, "pictures": tally.judged + tally.failed, "began": round(began, 4),
            "seconds": round(time.perf_counter() - wall, 4),
            "cpu_seconds": round(time.process_time() - cpu, 4)}  # fmt: skip
    # A single unbuffered write per line, since several processes append to the file.
    with saving(places.out / TIMINGS), open(places.out / TIMINGS, "ab", buffering=0) as file:
        disk.write(file.fileno(), (json.dumps(line) + "\n").encode())
    return tally


def read_spent(out: Path) -> Spent:
    """The time of all shards that were ever decided in this folder; truncated lines are skipped.

    Time during which several processes worked counts once. Earlier versions did not record when a shard began; their
    seconds are added.
    """
    pictures, alone, cpu, spans = 0, 0.0, 0.0, list[tuple[float, float]]()
    if (out / TIMINGS).is_file():
        with open(out / TIMINGS, encoding="utf-8", errors="replace") as file:
            for text in file:
                try:
                    line = parse_json(text, fields_once=False)
                    many, seconds, own = int(line["pictures"]), float(line["seconds"]), float(line["cpu_seconds"])
                    began = float(line.get("began", 0))
                except (ValueError, KeyError, TypeError, AttributeError):
                    continue
                pictures, cpu = pictures + many, cpu + own
                if began:
                    spans = _joined([*spans, (began, began + seconds)])
                else:
                    alone += seconds
    return Spent(pictures, alone + sum(end - begin for begin, end in spans), cpu)


def _joined(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Spans of time without overlap. Those less than `PAUSE` apart are joined too, which keeps them few."""
    joined: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        if joined and begin <= joined[-1][1] + PAUSE:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((begin, end))
    return joined


def summary(made: Filtered) -> dict[str, Any]:
    """The counts as plain data, without anything that depends on the machine or the time."""
    return {"filter": made.config, "judge": made.about, "shards": made.shards, **made.tally.to_dict()}


def _sweep(out: Path) -> None:
    """Removes temporary files of processes that were killed. Call it only while nobody writes."""
    remove_temporary(out)


def _hold(work: Work) -> dict[str, Any]:
    path = work.places.out / CONFIG
    if not path.is_file():
        if any(work.places.out.glob("decisions/**/*.parquet")):
            raise UserError(f"{path}: gone from beside its decisions; give another --out")
        _write_config(work, {})
        return {}
    said = _read_config(work.places)
    by = said.get("filter", {})
    # A setting that one of the two does not name has its default.
    for name in {**by, **work.config}:
        if by.get(name) != work.config.get(name):
            raise UserError(
                f"{work.places.out}: holds decisions by {name} {by.get(name)!r}, not {work.config.get(name)!r}; give "
                "another --out"
            )
    _hold_to_corpus(work, said.get("corpus"))
    judge: dict[str, Any] = said.get("judge", {})
    return judge


def _read_config(places: Places) -> dict[str, Any]:
    said: dict[str, Any] = read_json(places.out / CONFIG)
    return said


def _hold_to_corpus(work: Work, place: str | None) -> None:
    """Raises UserError if the decisions are on another corpus. One that was moved, with the same files, is the same."""
    here = name_of(str(work.corpus.place))
    if place in (None, here) or Path(str(place)).resolve() == work.corpus.place.resolve():
        return
    unmatched = decided(work.places)
    for shard in work.corpus.shards() if unmatched else ():
        if shard.name in unmatched and tally_of(shard, replace(work.asked, shards=False), work.places) is not None:
            unmatched.discard(shard.name)
    if unmatched:
        raise UserError(
            f"{work.places.out}: holds decisions on the images of {place}, not of {here}; give another --out, or "
            "remove it"
        )


def _write_config(work: Work, about: Mapping[str, Any]) -> None:
    said = {"filter": dict(work.config), "judge": dict(about), "corpus": name_of(str(work.corpus.place))}
    path = work.places.out / CONFIG
    if not path.is_file() or {key: value for key, value in read_json(path).items() if key in said} != said:
        write_json(path, {**said, "environment": describe()})
