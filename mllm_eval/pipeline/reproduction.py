"""Reproduce a run from its recorded config in a new folder, and compare the results of both."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mllm_eval.answers import read_answers
from mllm_eval.catalog.variant import DEFAULT, parse_stem
from mllm_eval.errors import UserError
from mllm_eval.pipeline.completion import evaluate
from mllm_eval.pipeline.flow import train_run
from mllm_eval.pipeline.reporter import Reporter
from mllm_eval.run import Run, read_manifest
from mllm_eval.storage import iter_jsonl, read_json, results_in, sha256_file, sha256_tree

# Fields of a manifest's session that can affect results. Packages are compared separately, each by its version.
MACHINE = ("python", "platform", "cpu", "threads", "gpus", "git")


@dataclass
class Reproduction:
    """The comparison of a run with its reproduction.

    answers: file -> (number of questions, number of equal answers, whether the files are equal byte for byte).
    scores: file -> (value before, value now).
    losses: stage -> (number of steps, largest absolute difference of the training loss).
    checkpoint: whether the weights are equal byte for byte.
    environment: sentences on versions and hardware that differ.
    left_out: sentences on answers that were not reproduced.
    """

    folder: Path
    answers: dict[str, tuple[int, int, bool]] = field(default_factory=dict)
    scores: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)
    losses: dict[int, tuple[int, float]] = field(default_factory=dict)
    checkpoint: bool = False
    environment: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether answers, scores, losses and weights are all exactly equal."""
        return (
            self.checkpoint
            and all(whole for _, _, whole in self.answers.values())
            and all(one == other for one, other in self.scores.values())
            and all(not gap for _, gap in self.losses.values())
        )


def reproduce(run: Run, into: Path, reporter: Reporter | None = None) -> Reproduction:
    """Repeat a run's features, training, answers and scores in the results folder `into`, and compare both.

    The run's config.yaml is followed, with the weights and data of this machine. MLLM_EVAL_RESULTS is set to `into`
    meanwhile. A second call resumes an interrupted reproduction. The run itself is never changed.

    Raises:
        UserError: the weights are not the recorded ones, or bad input.
    """
    before = run.folder
    fresh = Run.of(run.encoder, run.recipe, run.llm, run.seed)
    if fresh.hash != run.hash:
        other = [name for name, digest in fresh.weights.items() if run.weights.get(name) != digest]
        why = f"the weights of its {' and '.join(other)} are others here" if other else "this version names it anew"
        raise UserError(f"{before}: the record can't be made again: {why}; it would be run {fresh.hash}")
    asked: dict[str, list[str]] = {}
    compared = Reproduction(into)
    for path in sorted((before / "answers").glob("*.jsonl")):
        benchmark, variant = parse_stem(path.stem)
        if variant.subset is not None:
            compared.left_out.append(f"{path.stem}: a subset's answers are not asked again")
            continue
        asked.setdefault(variant.name, []).append(benchmark)
    with results_in(into):
        train_run(run.encoder, run.recipe, run.llm, run.seed, reporter)
        for name, benchmarks in sorted(asked.items(), key=lambda one: one[0] != DEFAULT.name):
            more = [name] if name != DEFAULT.name else []
            evaluate(run.encoder, run.recipe, run.llm, run.seed, reporter, benchmarks=benchmarks, variants=more)
        after = fresh.folder
    _compare(compared, before, after)
    return compared


def _compare(compared: Reproduction, before: Path, after: Path) -> None:
    for path in sorted((before / "answers").glob("*.jsonl")):
        other = after / "answers" / path.name
        if other.is_file():
            texts, now = ({one.id: (one.state, one.text) for one in read_answers(file)} for file in (path, other))
            equal = sum(now.get(name) == said for name, said in texts.items())
            compared.answers[path.stem] = (len(texts), equal, sha256_file(path) == sha256_file(other))
    for path in sorted((before / "scores").glob("*.json")):
        other = after / "scores" / path.name
        if other.is_file():
            compared.scores[path.stem] = (read_json(path).get("value"), read_json(other).get("value"))
    for stage in (1, 2):
        losses, again = (dict(_losses(folder / f"stage{stage}" / "log.jsonl")) for folder in (before, after))
        if losses:
            gaps = [abs(loss - again.get(step, float("inf"))) for step, loss in losses.items()]
            compared.losses[stage] = (len(losses), max(gaps))
    weights = [sha256_tree(folder / "checkpoint", _is_weights) for folder in (before, after)]
    compared.checkpoint = weights[0] == weights[1]
    sessions = [read_manifest(folder).get("sessions") or [{}] for folder in (before, after)]
    compared.environment = list(_differing(sessions[0][-1], sessions[1][-1]))


def _is_weights(path: Path) -> bool:
    return path.suffix == ".safetensors"


def _losses(log: Path) -> Iterator[tuple[int, float]]:
    for line in iter_jsonl(log) if log.is_file() else ():
        yield int(line["step"]), float(line["loss"])


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for key in MACHINE:
        if before.get(key) != now.get(key):
            yield f"{key}: {_short(before.get(key))}, now {_short(now.get(key))}"
    packages, installed = before.get("packages") or {}, now.get("packages") or {}
    for name in sorted(packages.keys() | installed.keys(), key=str.lower):
        if packages.get(name) != installed.get(name):
            yield f"{name} {packages.get(name, 'absent')}, now {installed.get(name, 'absent')}"


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
