"""Records that an answer file contains: checks their fields, and whether their groups are complete."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mllm_eval.catalog.benchmark import Benchmark
from mllm_eval.config import canonical
from mllm_eval.data.columntypes import named_columns
from mllm_eval.data.samples import Sample
from mllm_eval.errors import UserError, near
from mllm_eval.score.scorer import KINDS, ScorerModule, own_code


def sample_of(benchmark: Benchmark, scorer: ScorerModule, id_: str, record: Mapping[str, Any], where: str) -> Sample:
    """Make a sample from a record. Raises UserError naming a field that is missing or has another type."""
    names = named_columns(record, benchmark.aliases, where)
    named = {name: record[own] for name, own in names.items()}
    check_fields(scorer, named, where)
    group = id_
    if scorer.group:
        with own_code(benchmark, f"`group` on sample '{id_}'"):
            membership = scorer.group(named)
            if not (isinstance(membership, tuple) and [type(part) for part in membership] == [str, int]):
                raise TypeError(f"it gives {membership!r}, expected (name, how many records make it whole)")
            group = membership[0]
    return Sample(benchmark.name, id_, (), "", "", group, group, named)


def check_fields(scorer: ScorerModule, record: Mapping[str, Any], where: str) -> None:
    """Raise UserError for the first field that the scorer needs and that is missing or has another type."""
    for field, kind in scorer.needs.items():
        if field not in record and kind.endswith("?"):
            continue
        if field not in record:
            raise UserError(f"{where}: the record has no field '{field}' ({kind}).{near(field, record)}")
        if not _is(record[field], kind):
            kind_given = type(record[field]).__name__
            raise UserError(f"{where}: field '{field}' of the record is {kind_given}, expected {kind}")


def _is(value: Any, kind: str) -> bool:
    if value is None:
        return kind.endswith(("|null", "?"))
    kind = kind.removesuffix("|null").removesuffix("?")
    if kind.startswith("list<"):
        return isinstance(value, list) and all(_is(item, kind[5:-1]) for item in value)
    return isinstance(value, KINDS[kind]) and (kind == "bool" or not isinstance(value, bool))


def whole_groups(scorer: ScorerModule, samples: Sequence[Sample]) -> tuple[set[str], str]:
    """The groups that contain each member exactly once, and an error message for the first other group.

    If no group is complete and the same question occurs three times or more, the lines are taken as trial answers:
    the message is empty, each line is scored, and no number combines them.
    """
    if scorer.group is None:
        return {sample.group for sample in samples}, ""
    members: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    for sample in samples:
        members.setdefault(sample.group, []).append(canonical(_plain(sample.record)))
        sizes[sample.group] = scorer.group(sample.record)[1]
    whole = {name for name, answers in members.items() if len(set(answers)) == len(answers) == sizes[name]}
    most = max((max(Counter(answers).values()) for answers in members.values()), default=0)
    broken = [name for name in members if name not in whole]
    if not broken or (not whole and most >= 3):
        return whole, ""
    first = broken[0]
    return whole, f"group '{first}' has {len(members[first])} answers where {sizes[first]} make it whole"


def _plain(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: str(value) for key, value in record.items()}
