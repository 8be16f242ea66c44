"""What differs between two runs: configuration, versions, machine, scores, answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllm_eval.results import RunRecord
from mllm_eval.results.record import Summary
from mllm_eval.storage import iter_jsonl


@dataclass(frozen=True, slots=True)
class AnswersDiff:
    """The answers and values of two runs on one benchmark.

    `shared`: number of samples that both runs were asked. `same`: those with the same answer text. `only_a`, `only_b`:
    those that one of the runs scores higher. A value is None if that run was not scored.
    """

    benchmark: str
    value_a: float | None
    value_b: float | None
    shared: int
    same: int
    only_a: int
    only_b: int


@dataclass(frozen=True, slots=True)
class RunsDiff:
    """What differs between two runs: in each mapping key -> both values as text, "" where a run has none.

    `data` covers the files trained on and the protocol that scored each benchmark. Equal values are left out.
    """

    config: dict[str, tuple[str, str]]
    data: dict[str, tuple[str, str]]
    environment: dict[str, tuple[str, str]]
    answers: list[AnswersDiff]


def diff(a: RunRecord, b: RunRecord, rules: str = "cambrian") -> RunsDiff:
    """Compares two runs. Raises UserError for damaged scores."""
    runs = (a, b)
    configs = [flat(record.run.config()) for record in runs]
    worlds = [flat(_session(record)) for record in runs]
    own = [record.summaries(rules) for record in runs]
    both = [name for name in own[0] if name in own[1]]
    names = both + [name for name in {**own[0], **own[1]} if name not in both]
    data = [{**_trained_on(record), **_protocols(scored)} for record, scored in zip(runs, own, strict=True)]
    answers = [_answers(name, runs, own, rules) for name in names]
    return RunsDiff(_unequal(*configs), _unequal(*data), _unequal(*worlds), answers)


def _trained_on(record: RunRecord) -> dict[str, str]:
    return flat({"trained on": record.manifest.get("trained_on", {})})


def _protocols(scored: Mapping[str, Summary]) -> dict[str, str]:
    return {f"protocol of {name}": f"{one['protocol']} {one['protocol_hash']}" for name, one in scored.items()}


def _answers(name: str, runs: Sequence[RunRecord], own: Sequence[Mapping[str, Summary]], rules: str) -> AnswersDiff:
    values = [side[name]["value"] if name in side else None for side in own]
    texts = [_texts(record.answers_path(name)) for record in runs]
    shared = texts[0].keys() & texts[1].keys()
    same = sum(texts[0][key] == texts[1][key] for key in shared)
    better = [0, 0]
    if all(name in side for side in own):
        scores = [record.scores(rules, benchmarks=[name]).set_index("id")["score"] for record in runs]
        left, right = scores[0].align(scores[1], join="inner")
        better = [int((left > right).sum()), int((right > left).sum())]
        shared = shared or set(left.index)
    return AnswersDiff(name, values[0], values[1], len(shared), same, *better)


def _texts(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    return {str(line.get("id")): str(line.get("text")) for line in iter_jsonl(path)}


def _session(record: RunRecord) -> dict[str, Any]:
    """The environment of the run's last session: without its time, and with changed files counted, not listed."""
    try:
        last = dict(record.manifest["sessions"][-1])
    except (KeyError, TypeError, ValueError, IndexError):
        return {}
    last.pop("time", None)
    if isinstance(last.get("git"), dict):
        changed = last["git"].get("changed") or []
        last["git"] = {"commit": str(last["git"].get("commit", ""))[:12], "changed files": len(changed)}
    return last


def flat(node: Any, at: str = "") -> dict[str, str]:
    """Nested mappings and lists as `a.b.0` -> text; long hashes cut to twelve digits."""
    if isinstance(node, Mapping):
        pairs = [(str(key), value) for key, value in node.items()]
    elif isinstance(node, list) and any(isinstance(part, Mapping | list) for part in node):
        pairs = [(str(index), value) for index, value in enumerate(node)]
    else:
        text = "none" if node is None else str(node)
        return {at: text[:12] if re.fullmatch(r"[0-9a-f]{32,}", text) else text}
    texts: dict[str, str] = {}
    for key, value in pairs:
        texts |= flat(value, f"{at}.{key}" if at else key)
    return texts


def _unequal(a: Mapping[str, str], b: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    keys = dict.fromkeys((*a, *b))
    return {key: (a.get(key, ""), b.get(key, "")) for key in keys if a.get(key) != b.get(key)}
