"""The search for leaks: hash, find candidates, confirm them, look for the questions, and write the findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mllm_eval.catalog import Benchmark, Encoder, Recipe
from mllm_eval.config import short_hash, validate
from mllm_eval.data.samples import ImageRef, Sample, shown
from mllm_eval.data.snapshots import load_samples
from mllm_eval.leaks.findings import KINDS, PICTURED, Findings, Found, Kind, Settings, read_findings
from mllm_eval.leaks.hashes import VIEWS
from mllm_eval.leaks.hashing import hash_views
from mllm_eval.leaks.matching import USUAL, Pairs, Tolerance, candidates, confirm, names_of
from mllm_eval.leaks.questions import Questions, normalised, question_of
from mllm_eval.leaks.sources import SearchSource, Step, hashed_source, settings_of, silent
from mllm_eval.leaks.thumbnails import image_name, picture_name, write_thumbnails
from mllm_eval.leaks.trainingsets import STANDS
from mllm_eval.storage import read_json, write_json, write_jsonl

if TYPE_CHECKING:
    from mllm_eval.leaks.confirming import SummaryEncoder

MOST = 256
# Sample ids that a line lists.
NAMED = 20


class _Asked(NamedTuple):
    """A benchmark: its name, the pin of its data, its samples and their questions."""

    name: str
    pin: str
    samples: Sequence[Sample]
    texts: Sequence[str]


@dataclass(frozen=True)
class _Searched(SearchSource):
    """A source, the questions to look for, and where they occur in it (None without text)."""

    asked: Questions
    stands: NDArray[Any] | None


def find_leaks(
    source: Recipe | Path,
    benchmarks: Sequence[Benchmark],
    pin: str,
    encoder: Encoder,
    *,
    tolerance: Tolerance = USUAL,
    step: Step = silent,
    say: Callable[[str], None] = lambda _: None,
) -> Findings:
    """Searches a recipe's training data, or a folder of images, for the images and questions of benchmarks.

    Args:
        source: a recipe, or the `Path` of a folder of images, tar shards or parquet files, or of one such file. A
            `Path` has no text, so only images are searched.
        pin: the data pin of the benchmarks.
        encoder: the encoder whose summaries confirm candidates.
        tolerance: how similar the hashes and features of a pair must be.

    Results are saved per piece and per benchmark: the same call resumes where it stopped, and computes nothing twice.

    Raises:
        UserError: missing data or library, no readable images, or a value out of range.
    """
    for benchmark in benchmarks:
        benchmark.pin(pin)
    settings = settings_of(encoder, tolerance, len(VIEWS), MOST)
    samples = {one.name: load_samples(one, pin) for one in benchmarks}
    questions = {
        one.name: [question_of(sample, str(one.settings.get("question", "question"))) for sample in samples[one.name]]
        for one in benchmarks
    }
    looked = _look_through(source, Questions(text for texts in questions.values() for text in texts), step, say)
    from mllm_eval.leaks.confirming import SummaryEncoder

    judge = SummaryEncoder(encoder)
    for one in benchmarks:
        asked = _Asked(one.name, pin, samples[one.name], questions[one.name])
        _check_benchmark(asked, looked, settings, judge, step)
    findings = read_findings(looked.folder, pin)
    assert findings is not None
    return Findings(findings.folder, {one.name: findings.benchmarks[one.name] for one in benchmarks})


def _look_through(source: Recipe | Path, asked: Questions, step: Step, say: Callable[[str], None]) -> _Searched:
    hashed, stands = hashed_source(source, step, say), None
    if hashed.own:
        with step("leaks: rows (questions)") as told:
            stands = hashed.own.stands(asked, hashed.folder / "questions" / short_hash(asked.texts, 16), told)
    return _Searched(hashed.corpus, hashed.folder, hashed.hashed, hashed.read, asked, stands)


def _check_benchmark(
    benchmark: _Asked, source: _Searched, settings: Settings, judge: SummaryEncoder, step: Step
) -> None:
    name, pin, samples, texts = benchmark
    folder = source.folder / "found" / pin
    pictures = shown([samples])
    asked = [(sample.id, [image.sha256 for image in sample.images]) for sample in samples]
    of = short_hash([settings.model_dump(mode="json"), source.corpus.identity, source.hashed.state, asked,
                     list(texts)], 16)  # fmt: skip
    path = folder / f"{name}.json"
    if path.is_file() and validate(read_json(path), Found, str(path)).of == of:
        return
    # Old counts are removed first, so that they never stand next to new lists of pairs.
    path.unlink(missing_ok=True)
    with step(f"leaks: {name} (hashes)") as told:
        viewed = hash_views(pictures, source.folder.parent / "benchmarks", told)
    with step(f"leaks: {name} (pairs)") as told:
        near = candidates(source.hashed, viewed, settings.radius, settings.most)
        near, calibration = confirm(near, viewed, source.hashed, source.corpus, judge,
                                    Tolerance(settings.radius, settings.alarm), told)  # fmt: skip
    over = calibration.threshold if calibration else None
    same = near.where(near.similarity > over if over is not None else np.zeros(len(near.picture), bool))
    first = same.where(np.arange(len(same.picture)) < PICTURED)
    write_thumbnails(first, viewed.pictures, source.corpus, source.hashed, folder / "thumbs")
    showing = _showing(samples)
    _write_pairs(folder / f"{name}.pairs.jsonl", same, viewed.pictures, source, showing)
    flags = _flags(samples, texts, same, viewed.pictures, source)
    write_jsonl(folder / f"{name}.samples.jsonl", flags)
    standing = _write_questions(folder / f"{name}.questions.jsonl", samples, texts, source)
    leaked: dict[Kind, int] = {kind: 0 for kind in KINDS}
    for row in flags:
        leaked["pictures"] += row["picture"]
        leaked["questions"] += row["question"]
        leaked["both"] += row["both"]
        leaked["either"] += 1
    counts = Found(
        benchmark=name, data=pin, corpus=source.corpus.name, of=of, settings=settings, images=source.hashed.images,
        broken_images=source.hashed.broken, broken_images_first=source.hashed.reasons, broken_rows=source.read.broken,
        broken_rows_first=source.read.reasons, samples=len(samples), pictures=len(pictures),
        broken_pictures=len(viewed.broken), broken_pictures_first=tuple(viewed.broken[:3]), candidates=near.total,
        looked_at=int(np.isfinite(near.similarity).sum()), different=calibration.pairs if calibration else 0,
        threshold=over, alarm=calibration.alarm if calibration else None, pairs=len(same.picture),
        leaked_pictures=len(np.unique(same.picture)), asked=len({normalised(text) for text in texts}),
        standing=standing, leaked=leaked,
    )  # fmt: skip
    write_json(path, counts.model_dump(mode="json"))


def _showing(samples: Sequence[Sample]) -> dict[str, list[str]]:
    ids_by_image: dict[str, list[str]] = {}
    for sample in samples:
        for image in sample.images:
            ids_by_image.setdefault(image.sha256, []).append(sample.id)
    return ids_by_image


def _write_pairs(
    path: Path, pairs: Pairs, pictures: Sequence[ImageRef], source: _Searched, showing: dict[str, list[str]]
) -> None:
    named = names_of(source.corpus, source.hashed, pairs.image)
    thumbs = path.parent / "thumbs"

    def rows() -> Iterator[dict[str, Any]]:
        columns = zip(*(column.tolist() for column in pairs[:5]), strict=True)
        for picture, image, view, distance, similarity in columns:
            ref = pictures[picture]
            ids = showing[ref.sha256]
            files = {"picture_thumb": picture_name(ref), "image_thumb": image_name(image)}
            yield {
                "picture": ref.sha256, "samples": ids[:NAMED], "n_samples": len(ids), "view": VIEWS[view].words(),
                "distance": distance, "similarity": round(similarity, 4), "image": named.get(image, ("", ""))[0],
                "where": named.get(image, ("", ""))[1],
                **{key: file for key, file in files.items() if (thumbs / file).is_file()},
            }  # fmt: skip

    write_jsonl(path, rows())


def _flags(
    samples: Sequence[Sample], texts: Sequence[str], pairs: Pairs, pictures: Sequence[ImageRef], source: _Searched
) -> list[dict[str, Any]]:
    """A row for each leaked sample: whether it has a copied image, whether its question occurs, and both in one row."""
    copies: dict[str, set[int]] = {}
    own = source.own
    for picture, image in zip(pairs.picture.tolist(), pairs.image.tolist(), strict=True):
        copies.setdefault(pictures[picture].sha256, set()).add(own.key(image) if own else image)
    stands = np.zeros(0, STANDS) if source.stands is None else source.stands
    standing = set(np.unique(stands["question"]).tolist())
    keys = np.array(sorted({key for keys_of_copies in copies.values() for key in keys_of_copies}), np.uint64)
    with_copy = stands[np.isin(stands["key"], keys)]
    together = set(zip(with_copy["question"].tolist(), with_copy["key"].tolist(), strict=True))
    rows = []
    for sample, text in zip(samples, texts, strict=True):
        shown_copies = {key for image in sample.images for key in copies.get(image.sha256, ())}
        number = source.asked.numbers.get(normalised(text))
        question = number in standing
        if shown_copies or question:
            both = any((number, key) in together for key in shown_copies)
            rows.append({"id": sample.id, "picture": bool(shown_copies), "question": question, "both": both})
    return rows


def _write_questions(path: Path, samples: Sequence[Sample], texts: Sequence[str], source: _Searched) -> int | None:
    if source.stands is None or source.own is None:
        write_jsonl(path, [])
        return None
    own = source.own
    asking: dict[int, list[str]] = {}
    for sample, text in zip(samples, texts, strict=True):
        number = source.asked.numbers.get(normalised(text))
        if number is not None:
            asking.setdefault(number, []).append(sample.id)
    numbers, first, counts = np.unique(source.stands["question"], return_index=True, return_counts=True)
    rows = []
    for number, at, count in zip(numbers.tolist(), first.tolist(), counts.tolist(), strict=True):
        if number in asking:
            place = source.stands[at]
            ids = asking[number]
            rows.append({"question": source.asked.texts[number], "samples": ids[:NAMED], "n_samples": len(ids),
                         "rows": count, "where": own.where(int(place["set"]), int(place["row"]))})  # fmt: skip
    rows.sort(key=lambda row: (row["rows"], row["question"]))
    write_jsonl(path, rows)
    return len(rows)
