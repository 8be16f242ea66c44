"""Runs on disk: their config, their summaries and their scores, as data frames."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from mllm_eval.catalog.variant import stem
from mllm_eval.config import load, short_hash
from mllm_eval.distribution import of_lines
from mllm_eval.errors import UserError, near
from mllm_eval.external import ExternalModel, is_external_model
from mllm_eval.greedy import overruled_words
from mllm_eval.imported import Imported, is_imported
from mllm_eval.results.probes import Probe, read_probes
from mllm_eval.run import Run, RunConfig, RunFolder
from mllm_eval.storage import read_json, read_jsonl

SUMMARY = (
    "benchmark",
    "rules",
    "variant",
    "n",
    "n_failed",
    "n_unparsed",
    "value",
    "protocol",
    "protocol_hash",
    "chance",
)
LINE = ("id", "score", "parsed", "note", "group", "cluster")


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a table needs to know of a run. `held_equal` is the hash of what a comparison must share.

    `trained_on`: its files of conversations, by the recipe's names for them, and the content that each had.
    `probes`: its classic vision, where somebody measured it. `notes`: what a reader of its row must know.
    `external`: what it is if not a run of this project, `a finished model` or `imported answers`. Such a one has no
    encoder that is told apart: its `params` are 0, its `facts` empty.
    """

    folder: Path
    hash: str
    name: str
    encoder: str
    recipe: str
    recipe_hash: str
    llm: str
    held_equal: str
    seed: int
    facts: dict[str, str]
    data: str
    params: int
    probes: dict[str, Probe] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    trained_on: dict[str, str] = field(default_factory=dict)
    external: str = ""

    @property
    def data_hash(self) -> str:
        """12 hex digits of what it was trained on; empty where that was not noted."""
        return short_hash(self.trained_on) if self.trained_on else ""


def read_run(folder: Path) -> RunRecord:
    """The record of a run's folder.

    Raises UserError if its config is missing or damaged, or its template's prompts have become other tokens since.
    """
    if is_external_model(folder):
        return _read_finished(folder)
    if is_imported(folder):
        return _read_imported(folder)
    config = load(folder / "config.yaml", RunConfig)
    run = Run(config.encoder, config.recipe, config.llm, config.seed, config.weights)
    run.refuse_earlier_tokens(folder)
    facts, encoder = config.encoder.facts, config.encoder
    return RunRecord(
        folder=folder,
        hash=folder.name,
        name=run.name,
        encoder=encoder.name,
        recipe=config.recipe.name,
        recipe_hash=config.recipe.hash,
        llm=config.llm.name,
        held_equal=short_hash([config.recipe.hash, config.llm.identity(), config.weights.get("llm")]),
        seed=config.seed,
        facts={
            "data": facts.pretraining_data,
            "samples": facts.samples_seen,
            "res": str(encoder.preprocessing.size),
            "params": _amount(encoder.params),
            "supervision": facts.supervision,
        },
        data=config.recipe.data,
        params=encoder.params,
        probes=read_probes(folder),
        trained_on=_trained_on(run),
    )


def _trained_on(run: Run) -> dict[str, str]:
    noted = run.manifest().get("trained_on")
    found = noted.items() if isinstance(noted, dict) else ()
    return {str(ref): f"{one['size']:,} bytes of SHA-256 {str(one['sha256'])[:12]}" for ref, one in found
            if isinstance(one, dict) and {"size", "sha256"} <= one.keys()}  # fmt: skip


def _read_finished(folder: Path) -> RunRecord:
    model = ExternalModel.load(folder)
    said = overruled_words(model.overruled)
    return _external(folder, model, model.label, "a finished model", (said,) if said else ())


def _read_imported(folder: Path) -> RunRecord:
    kept = Imported.load(folder)
    files = kept.manifest().get("files", {}).values()
    layouts = sorted({str(one.get("format")) for one in files if isinstance(one, dict)})
    said = f"answers imported from {len(files)} files ({', '.join(layouts)})" if files else "answers imported"
    return _external(folder, kept, kept.label, "imported answers", (said.replace("1 files", "1 file"),))


def _external(folder: Path, one: RunFolder, label: str, what: str, notes: tuple[str, ...]) -> RunRecord:
    return RunRecord(
        folder=folder,
        hash=folder.name,
        name=one.name,
        encoder=label,
        recipe="its own",
        recipe_hash=what.removeprefix("a "),
        llm="its own",
        # They share what they are asked, and nothing that an encoder's run holds equal.
        held_equal=short_hash(["finished", one.data]),
        seed=0,
        facts={},
        data=one.data,
        params=0,
        probes=read_probes(folder),
        notes=notes,
        external=what,
    )


def _amount(count: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def summaries(folder: Path, rules: str, variant: str = "default") -> dict[str, dict[str, Any]]:
    """Benchmark -> summary of a run under a rule set and variant; empty if there are none."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((folder / "scores").glob(f"*.{rules}.json")):
        summary = read_json(path)
        missing = [key for key in SUMMARY if not isinstance(summary, dict) or key not in summary]
        if missing:
            raise UserError(f"{path}: no {missing[0]!r}; make it again with `mllm-eval score`")
        if (summary["rules"], summary["variant"]) == (rules, variant):
            found[str(summary["benchmark"])] = summary
    return found


def reported(summary: Mapping[str, Any], metric: str) -> float | None:
    """A number that a summary reports beside its value, by its name or a path `a.b`; None where it has none."""
    found: Any = summary.get("reported")
    for part in metric.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    known = isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found)
    return float(found) if known else None


def given_answers(folder: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """Which answers were given, as `distribution` counts them; without the golds where an older version scored.

    Raises UserError where the file of scores has a line that is none.
    """
    if isinstance(found := summary.get("given"), dict):
        return found
    named = stem(str(summary["benchmark"]), str(summary["variant"]))
    path = folder / "scores" / f"{named}.{summary['rules']}.jsonl"
    rows = _objects(path) if path.is_file() else []
    return of_lines([row for row in rows if {"parsed", "score"} <= row.keys()])


def scored_variants(folder: Path, rules: str) -> list[str]:
    """The variants that a run has summaries of, `default` first."""
    found = {str(read_json(path).get("variant", "default")) for path in (folder / "scores").glob(f"*.{rules}.json")}
    return sorted(found, key=lambda name: (name != "default", name))


def scored_rules(folder: Path) -> list[str]:
    """The rule sets that a run has summaries of."""
    return sorted({str(read_json(path).get("rules", "")) for path in (folder / "scores").glob("*.json")})


def hold_to_known_rules(folders: Iterable[Path], rules: str) -> None:
    """UserError, with the nearest name, for a rule set that none of these runs has scores of, where any has some."""
    known = sorted({name for folder in folders for name in scored_rules(folder) if name})
    if known and rules not in known:
        raise UserError(f"no run was scored by rules {rules!r}.{near(rules, known)} Known: {', '.join(known)}")


def load_scores(
    folder: Path, rules: str, variant: str = "default", benchmarks: Iterable[str] | None = None
) -> pd.DataFrame:
    """Scores of a run, a row a sample, in the order of benchmark and id.

    Columns: benchmark, id, group, cluster, stratum (str or None), score (float, nan = failed), parsed, note.

    Raises:
        UserError: a file or a key is missing, a score is no number from 0 to 1, an id comes twice, or the
            file has another number of samples than its summary.
    """
    known = summaries(folder, rules, variant)
    wanted = list(known) if benchmarks is None else list(benchmarks)
    frames: list[pd.DataFrame] = []
    for name in wanted:
        if name not in known:
            raise UserError(f"{folder / 'scores'}: no {rules} scores of {name!r} ({variant}).{near(name, known)}")
        named = stem(name, variant)
        frames.append(_lines(folder / "scores" / f"{named}.{rules}.jsonl", name, int(known[name]["n"])))
    if not frames:
        return pd.DataFrame(columns=["benchmark", "id", "group", "cluster", "stratum", "score", "parsed", "note"])
    return pd.concat(frames, ignore_index=True)


def _objects(path: Path) -> list[dict[str, Any]]:
    """As `read_jsonl`; the lines of a file without fault are parsed in one call, which takes half as long."""
    lines = [line for line in path.read_bytes().split(b"\n") if line.strip()] if path.is_file() else []
    try:
        rows = json.loads(b"[%b]" % b",".join(lines))
    except ValueError:
        return read_jsonl(path)
    sound = lines and len(rows) == len(lines) and all(isinstance(row, dict) for row in rows)
    return rows if sound else read_jsonl(path)


def _lines(path: Path, benchmark: str, expected: int) -> pd.DataFrame:
    rows = _objects(path)
    for number, row in enumerate(rows, start=1):
        for key in LINE:
            if key not in row:
                raise UserError(f"{path}:{number}: no {key!r}; make it again with `mllm-eval score`")
        score = row["score"]
        if score is not None and not (isinstance(score, int | float) and 0 <= score <= 1):
            raise UserError(f"{path}:{number}: score {score!r} is not a number from 0 to 1 or null")
    if len(rows) != expected:
        raise UserError(f"{path}: {len(rows)} samples, its summary says {expected}; score it again")
    frame = pd.DataFrame(rows, columns=[*LINE, "stratum"]).astype({"id": str, "group": str, "cluster": str})
    frame["score"] = pd.to_numeric(frame["score"]).astype(float)
    frame["stratum"] = frame["stratum"].astype(object).where(frame["stratum"].notna(), None)
    if frame["id"].duplicated().any():
        raise UserError(f"{path}: sample {frame['id'][frame['id'].duplicated()].iloc[0]!r} comes twice")
    frame.insert(0, "benchmark", benchmark)
    return frame.sort_values("id", kind="stable", ignore_index=True)
