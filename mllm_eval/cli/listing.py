"""`mllm-eval encoders`: lists the described encoders with their facts. No model is loaded or downloaded."""

from __future__ import annotations

import operator
import re
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mllm_eval.console import say
from mllm_eval.errors import UserError, near

if TYPE_CHECKING:
    from mllm_eval.catalog import Encoder
    from mllm_eval.run import RunFolder

# Wide enough for every column when the output goes to a file or a pipe.
PIPED_WIDTH = 1000


def encoders(
    where: Annotated[
        list[str] | None, typer.Option(help="FACT=VALUE, or <, <=, >, >= before a number (300M, 1B); may be repeated")
    ] = None,
    sort: Annotated[str | None, typer.Option(help="fact to sort by, in ascending order")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object per line")] = False,
) -> None:
    """List the encoders with their facts, such as parameters, patch size, pretraining data and supervision.

    --json prints the names of all facts. `mllm-eval ls encoders` prints only the names of the encoders. Numbers of
    parameters are computed from the architecture.

    \b
      mllm-eval encoders --where supervision=self --where "params<=400M" --sort params
      mllm-eval encoders --json
    """
    import json

    from mllm_eval.catalog import load_encoder, names

    facts = chosen([facts_of(load_encoder(name)) for name in names("encoders")], where or [], sort)
    if as_json:
        for one in facts:
            say(json.dumps(one, ensure_ascii=False))
        return
    _print(facts)


def chosen(facts: list[dict[str, Any]], where: list[str], sort: str | None) -> list[dict[str, Any]]:
    """Return the encoders that meet all conditions, sorted by a fact; those without the fact come last.

    facts: one dict per encoder (`facts_of`). where: conditions such as "params<=400M".

    Raises UserError for a condition that cannot be parsed, an unknown fact (the nearest is named), and a fact that has
    no order.
    """
    if sort is not None and facts:
        _known(sort, facts[0])
        kinds = {type(one[sort]) for one in facts} - {type(None)}
        if not kinds <= {int} and not kinds <= {str}:
            raise UserError(f"--sort {sort}: has no order; take a number or a text")
    # A list, not a generator: every condition is parsed, even if an earlier one already excludes the encoder.
    facts = [one for one in facts if all([_holds(one, condition) for condition in where])]
    if sort is None:
        return facts
    return sorted(facts, key=lambda one: (one[sort] is None, one[sort] if one[sort] is not None else 0, one["name"]))


def _holds(one: dict[str, Any], condition: str) -> bool:
    parts = re.fullmatch(r"\s*(\w+)\s*(<=|>=|=|<|>)\s*(.*?)\s*", condition)
    if parts is None:
        raise UserError(f"--where {condition!r}: write FACT=VALUE, or <, <=, >, >= before a number")
    fact, how, wanted = parts.groups()
    _known(fact, one)
    said = one[fact]
    number = re.fullmatch(r"(\d+(?:\.\d+)?)([KMB]?)", wanted, re.IGNORECASE)
    if isinstance(said, int) and not isinstance(said, bool) and number is not None:
        limit = float(number[1]) * {"": 1, "K": 1e3, "M": 1e6, "B": 1e9}[number[2].upper()]
        ways = {"=": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
        return bool(ways[how](said, limit))
    if how != "=":
        if said is None:
            return False
        raise UserError(f"--where {condition!r}: {how} compares numbers, as in params{how}400M; {fact} has {said!r}")
    if isinstance(said, list):
        return wanted in said
    if isinstance(said, bool):
        return str(said).lower() == wanted.lower()
    return ("-" if said is None else str(said)) == wanted


def _known(fact: str, one: dict[str, Any]) -> None:
    if fact not in one:
        raise UserError(f"an encoder has no fact {fact!r}.{near(fact, one)} Known: {', '.join(one)}.")


def facts_of(encoder: Encoder) -> dict[str, Any]:
    """The facts of an encoder as JSON-serialisable values; a missing fact is None."""
    return {
        "name": encoder.name,
        "family": encoder.family,
        "code": encoder.code,
        "repo": encoder.weights.repo,
        "revision": encoder.weights.revision,
        "url": encoder.weights.url,
        "path": encoder.weights.path,
        "params": encoder.params,
        "patch": encoder.patch,
        "pixels": encoder.preprocessing.size,
        "grid": encoder.grid,
        "tokens": encoder.grid**2,
        "width": encoder.width,
        "depth": encoder.depth,
        "architecture": encoder.architecture.model_dump(exclude_none=True) if encoder.architecture else None,
        "preprocessing": encoder.preprocessing.mode,
        "variants": list(encoder.variants),
        "feature_layer": encoder.feature_layer,
        "norm": encoder.norm,
        "summary": encoder.summary,
        "pretraining_data": encoder.facts.pretraining_data,
        "samples_seen": encoder.facts.samples_seen,
        "supervision": encoder.facts.supervision,
        "published": list(encoder.facts.published),
    }


def _print(facts: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from mllm_eval.console import console as make_console

    numbers = {"params": "params", "patch": "patch", "pixels": "pixels", "tokens": "tokens"}
    numbers |= {"width": "width", "depth": "depth"}
    words = {"pretraining_data": "data", "samples_seen": "samples", "supervision": "supervision"}
    sheet = Table(box=None, pad_edge=False)
    for title in ("name", "family"):
        sheet.add_column(title, no_wrap=True)
    for title in numbers.values():
        sheet.add_column(title, no_wrap=True, justify="right")
    for title in (*words.values(), "weights", "published in"):
        sheet.add_column(title, overflow="fold")
    for one in facts:
        said = {**one, "params": f"{one['params'] / 1e6:,.1f} M"}
        cells = [str(said[key]) for key in ("name", "family", *numbers, *words)]
        cells = ["-" if cell == "None" else cell for cell in cells]
        sheet.add_row(*cells, one["repo"] or one["url"] or one["path"], _tables(one["published"]))
    width = None if sys.stdout.isatty() else PIPED_WIDTH
    make_console(highlight=False, width=width).print(sheet)


def _tables(rows: list[str]) -> str:
    """Shorten the names of published rows to their tables: `Table 6, 13`. `--json` prints the whole names."""
    places = dict.fromkeys(row.partition(":")[0] for row in rows)
    numbers = [place.removeprefix("Table ") for place in places if place.startswith("Table ")]
    others = [place for place in places if not place.startswith("Table ")]
    return ", ".join([*([f"Table {', '.join(numbers)}"] if numbers else []), *others])


def print_failed(run: RunFolder, benchmark: str | None = None) -> None:
    """Print a line for each failed sample of a run: benchmark, variant, id, reason; on stderr their number.

    benchmark: only samples of this benchmark; None: of all.
    """
    from mllm_eval.catalog.variant import DEFAULT
    from mllm_eval.results.failed import failed_samples

    failed = [one for one in failed_samples(run.folder / "answers") if benchmark in (None, one.benchmark)]
    for one in failed:
        variant = "" if one.variant == DEFAULT.name else f" ({one.variant})"
        say(f"{one.benchmark}{variant}  {one.id}  {one.reason}")
    mend = "; the command that asked them, with --retry-failed, asks them again" if failed else ""
    say(f"{len(failed):,} samples failed{mend}", file=sys.stderr)
