"""The data of every question with its answers and scores: an index to filter by, and pages of questions."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mllm_eval.answers import Answer, read_answers
from mllm_eval.catalog import load_benchmark
from mllm_eval.data.content import content_of
from mllm_eval.data.samples import ImageRef, Sample
from mllm_eval.errors import UserError
from mllm_eval.progress import Progress
from mllm_eval.report.site.contents import Evidence, MenuEntry
from mllm_eval.report.site.datafiles import write_data
from mllm_eval.report.words import title
from mllm_eval.results import columns

PAGE = 250
EDGE = 320  # pixels of a thumbnail's longer side
FAILED = "failed"  # the note of a sample without an answer begins with this
LONGEST = 1200  # characters of a question that are shown: prompts with the OCR tokens of a full page are cut


def write_samples(
    evidence: Evidence, out: Path, images: bool, progress: Progress, problems: list[str]
) -> list[dict[str, Any]]:
    """Writes the samples of all benchmarks; returns what the compare page needs to know of each benchmark.

    If the data set is not available, or has changed since it was scored, ids, answers and scores are shown without the
    questions, and a sentence is added to `problems`.
    """
    about, total = [], len(evidence.benchmarks)
    for number, name in enumerate(evidence.benchmarks):
        entries = [entry for entry in evidence.entries if name in entry.scored.benchmarks]
        samples = _load(name, evidence.pin, problems)
        if changed := _changed(entries, name, samples):
            problems.append(f"{title(name)} is shown without its questions: {changed}")
            samples = {}
        scores = {entry.key: _scores(entry, name) for entry in entries}
        answers = {entry.key: _answers(entry, name, problems) for entry in entries}
        ids = list(samples) or sorted({one for frames in scores.values() for frame in frames.values() for one in frame})
        thumbs = _thumbs(list(samples.values()), out) if images else {}
        suffix = _suffix(list(samples.values()))
        key = f"b{number:02d}"
        for start in range(0, len(ids), PAGE):
            part = ids[start : start + PAGE]
            write_data(out, f"{key}-{start // PAGE:03d}", _page(part, samples, answers, scores, thumbs, suffix))
        known = columns().benchmarks.get(name)
        codes = {
            entry: {rules: "".join(score_code(frame.get(one)) for one in ids) for rules, frame in frames.items()}
            for entry, frames in scores.items()
        }
        write_data(out, key, {"codes": codes})
        about.append({
            "key": key, "name": name, "title": title(name), "category": known.category if known else "", "n": len(ids),
            "pages": -(-len(ids) // PAGE), "suffix": suffix,
        })  # fmt: skip
        progress(number + 1, total)
    return about


def _load(name: str, pin: str, problems: list[str]) -> dict[str, Sample]:
    from mllm_eval.data.snapshots import load_samples

    try:
        return {sample.id: sample for sample in load_samples(load_benchmark(name), pin)}
    except UserError as error:
        problems.append(f"{title(name)} is shown without its questions: {error}")
        return {}


def _changed(entries: Sequence[MenuEntry], name: str, samples: dict[str, Sample]) -> str:
    """Says which questions or golds differ from those that were scored; "" if none do.

    Scores that recorded no content hashes are not checked.
    """
    if not samples:
        return ""
    for entry in entries:
        run = entry.scored.record
        scores = entry.scored.scores_of(name)
        lines = list(zip(scores["id"], scores["content"], strict=True))
        others = [id_ for id_, noted in lines
                  if noted is not None and (id_ not in samples or content_of(samples[id_]) != noted)]  # fmt: skip
        if others:
            return (f"{len(others)} of its {len(lines)} rows have changed since {entry.label} was scored (first: "
                    f"{others[0]!r}); `mllm-eval eval {run.encoder} --benchmarks {name}` scores them anew")  # fmt: skip
    return ""


Line = dict[str, Any]


def _scores(entry: MenuEntry, name: str) -> dict[str, dict[str, Line]]:
    by_rules = {}
    for rules, scored in entry.by_rules.items():
        if name in scored.benchmarks:
            rows = scored.scores_of(name).to_dict("records")
            by_rules[rules] = {str(row["id"]): {str(key): value for key, value in row.items()} for row in rows}
    return by_rules


def _answers(entry: MenuEntry, name: str, problems: list[str]) -> dict[str, Answer]:
    path = entry.scored.record.answers_path(name, entry.scored.variant)
    if not path.is_file():
        return {}
    try:
        return {answer.id: answer for answer in read_answers(path)}
    except UserError as error:
        problems.append(str(error))
        return {}


def score_code(line: Line | None) -> str:
    """One character per sample: A to K for scores from 0 to 1 in tenths, a to k if the answer could not be parsed.

    `-` is a failed sample, `.` a sample that was not scored.
    """
    if line is None:
        return "."
    if math.isnan(line["score"]):
        # A sample whose gold answer is not public has no score either, but did not fail.
        return "-" if str(line["note"]).startswith(FAILED) else "."
    # Other scores are clamped to 1 to 9 tenths, so that A means exactly 0 and K exactly 1.
    score = float(line["score"])
    tenths = 0 if score == 0 else 10 if score == 1 else min(9, max(1, round(10 * score)))
    return chr(ord("a" if _empty(line["parsed"]) else "A") + tenths)


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _page(
    ids: Sequence[str],
    samples: dict[str, Sample],
    answers: dict[str, dict[str, Answer]],
    scores: dict[str, dict[str, dict[str, Line]]],
    thumbs: dict[str, str],
    suffix: str,
) -> dict[str, Any]:
    shown = [samples.get(one) for one in ids]
    return {
        "ids": list(ids),
        "questions": [_question(one, suffix) for one in shown],
        "gold": [one.target[:LONGEST] if one else "" for one in shown],
        "images": [[thumbs[i.sha256] for i in one.images if i.sha256 in thumbs] if one else [] for one in shown],
        "groups": [one.group if one and one.group != one.id else "" for one in shown],
        "clusters": [one.cluster if one else "" for one in shown],
        "answers": {entry: [_answer(lines.get(one)) for one in ids] for entry, lines in answers.items()},
        "scores": {entry: sample_lines(ids, answers.get(entry, {}), by_rules) for entry, by_rules in scores.items()},
    }


def _question(sample: Sample | None, suffix: str) -> str:
    if sample is None:
        return ""
    text = sample.prompt.removesuffix(suffix).strip()
    return text if len(text) <= LONGEST else text[:LONGEST] + " …"


def _answer(answer: Answer | None) -> str | dict[str, str] | None:
    """The answer's text; {"failed": reason} if it failed, None if there is no answer."""
    if answer is None:
        return None
    return {"failed": answer.reason} if answer.state == "error" else answer.text[:LONGEST]


def sample_lines(
    ids: Sequence[str], answers: dict[str, Answer], by_rules: dict[str, dict[str, Line]]
) -> dict[str, list[list[Any] | int | None]]:
    """Rule set -> one line per sample, without repetitions; the compare page's script expands them.

    `true` as the parsed text stands for the answer itself; 0 as a line stands for the line of the first rule set.
    """
    by_benchmark: dict[str, list[list[Any] | int | None]] = {}
    first: list[list[Any] | None] = []
    for rules, lines in by_rules.items():
        own = [_score(lines.get(one)) for one in ids]
        for one, line in zip(ids, own, strict=True):
            if line is not None and len(line) > 1 and one in answers and line[1] == _answer(answers[one]):
                line[1] = True
        first = first or own
        by_benchmark[rules] = (
            list(own) if first is own else [0 if a == b else a for a, b in zip(own, first, strict=True)]
        )
    return by_benchmark


def _score(line: Line | None) -> list[Any] | None:
    """[score, text parsed from the answer, note], without empty values at the end."""
    if line is None:
        return None
    score = None if math.isnan(line["score"]) else round(float(line["score"]), 4)
    parts: list[Any] = [score, None if _empty(line["parsed"]) else str(line["parsed"]), str(line["note"] or "")]
    while len(parts) > 1 and parts[-1] in ("", None):
        parts.pop()
    return parts


def _suffix(samples: Sequence[Sample]) -> str:
    """The instruction that ends every prompt, or "". The page shows it once instead of with each question."""
    ends = {sample.prompt.rpartition("\n")[2] for sample in samples}
    return ends.pop() if len(ends) == 1 and len(samples) > 1 else ""


def _thumbs(samples: Sequence[Sample], out: Path) -> dict[str, str]:
    """Image sha256 -> file name of its thumbnail under thumbs/; existing thumbnails are not made again."""
    made: dict[str, str] = {}
    for sample in samples:
        for image in sample.images:
            if image.sha256 not in made and (name := _thumb(image, out)):
                made[image.sha256] = name
    return made


def _thumb(image: ImageRef, out: Path) -> str | None:
    name = f"{image.sha256[:2]}/{image.sha256[2:16]}.webp"
    path = out / "thumbs" / name
    if not path.is_file():
        try:
            picture = image.load()
        except UserError:
            return None  # the sample's answer, which failed for the same reason, names it
        picture.thumbnail((EDGE, EDGE))
        data = io.BytesIO()
        # Lossless for small drawings, which have sharp edges; lossy for photographs, which would be large.
        picture.save(data, "WEBP", lossless=max(picture.size) <= 128, quality=80, method=4)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_bytes(data.getvalue())
        temporary.replace(path)
    return name
