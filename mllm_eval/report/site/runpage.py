"""The page of one run: its configuration and assumptions, its training, its scores and its cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mllm_eval.catalog import TokenGrid
from mllm_eval.catalog.variant import DEFAULT
from mllm_eval.data.rowcounts import row_counts
from mllm_eval.errors import UserError
from mllm_eval.html import NOTHING, Html
from mllm_eval.report.chance import chance_p
from mllm_eval.report.diff import flat
from mllm_eval.report.evidence import read_blind
from mllm_eval.report.site import plots
from mllm_eval.report.site.contents import MenuEntry
from mllm_eval.report.site.figures import write_figure
from mllm_eval.report.site.markup import facts, opened, section, sheet
from mllm_eval.report.site.runparts import behind
from mllm_eval.report.table import printed
from mllm_eval.report.words import p_words, title
from mllm_eval.results import RunRecord, Timing, columns
from mllm_eval.run import Run
from mllm_eval.storage import iter_jsonl


def run_page(entry: MenuEntry, out: Path) -> Html:
    """The body of run-<hash>.html."""
    record = entry.scored.record
    if not isinstance(config := record.run, Run):
        return _external(entry)
    encoder = config.encoder
    about = facts([
        ("Encoder", f"{encoder.name}, {encoder.family}, {encoder.params:,} parameters, "
                    f"{encoder.preprocessing.size} px, " + (f"patch {encoder.patch}" if encoder.patch else "no patches")
                    + (f", family's code {encoder.code[:16]}" if encoder.code else "")),
        ("Pretraining", f"{encoder.facts.pretraining_data}; samples seen: {encoder.facts.samples_seen}; "
                        f"supervision: {encoder.facts.supervision}"),
        ("LLM", f"{config.llm.name}, {config.llm.params:,} parameters"
                + (f", from a GGUF file ({config.llm.quantisation})" if config.llm.quantisation else "")),
        ("Recipe", f"{config.recipe.name}, {config.recipe.hash}; template {config.recipe.template}, "
                   f"{config.recipe.tokens} visual tokens{_shown(config)}, {config.recipe.dtype}"),
        ("Seed", str(config.seed)),
        ("Weights", ", ".join(f"{part} {digest[:16]}" for part, digest in config.weights.items())),
    ])  # fmt: skip
    parts = [
        *_head(entry, about),
        training_section(record.folder, record.hash, out),
        _recipe(config),
        _cost(record),
        _world(record),
    ]
    return Html("\n").join(part for part in parts if part)


def _shown(config: Run) -> str:
    grid = TokenGrid.of(config.recipe, config.encoder)
    return (" with a row token behind each row" if grid.row_token else "") + (
        " without those of the padding" if grid.hide else ""
    )


def _head(entry: MenuEntry, about: Html) -> list[Html]:
    """The head of every run's page: the name and the facts in `about`, followed by scores and probes."""
    record = entry.scored.record
    title = Html(
        '<section class="headline"><h1>{}</h1><p class="lead">Run <code>{}</code></p>{}</section>'
    ).format(record.encoder, record.hash, about)  # fmt: skip
    return [title, _scores(entry), behind(entry.scored), probes_section(entry)]


def _external(entry: MenuEntry) -> Html:
    """The body of the page of an external model or of imported answers."""
    record = entry.scored.record
    files = _files(record)
    about = facts([("What", record.external), ("Data", record.data), *(("Note", note) for note in record.notes)])
    parts = [
        *_head(entry, about),
        section("files", "Files of answers", sheet("answer-files", "Files of answers", [("", False), ("File", False),
                ("Format", False), ("SHA-256", False)], files)) if files else NOTHING,
        _cost(record),
        _world(record),
    ]  # fmt: skip
    return Html("\n").join(part for part in parts if part)


def _files(record: RunRecord) -> list[list[str]]:
    keys = ("file", "format", "sha256")
    try:
        files = dict(record.manifest.get("files", {}))
        return [[name, *(str(one.get(key, "")) for key in keys)] for name, one in files.items()]
    except (AttributeError, TypeError, ValueError):
        return []


def _scores(entry: MenuEntry) -> Html:
    rules = list(entry.by_rules)
    head = [("", False), *((name, True) for name in rules), ("95 %", True), ("Chance", True), ("Above chance", True),
            ("Asked", True), ("Failed", True), ("Unparsed", True), ("Empty", True)]  # fmt: skip
    rows, scored = [], entry.scored
    blind = read_blind(scored)
    for name in scored.benchmarks:
        summary, limits = scored.summaries[name], scored.interval(name)
        values = [printed(one.values.get(name), 1) for one in entry.by_rules.values()]
        between = f"[{printed(limits.low, 1)}, {printed(limits.high, 1)}]" if limits else "–"  # noqa: RUF001
        chance = float(summary["chance"])
        p = chance_p(scored, blind, name)
        rows.append([title(name), *values, between, printed(chance, 1), p_words(p) if p is not None else "unknown",
                     f"{summary['n']:,}", f"{summary['n_failed']:,}", f"{summary['n_unparsed']:,}",
                     f"{summary.get('n_empty', 0):,}"])  # fmt: skip
    note = f"Interval and test are of the {rules[0]} rules. Above chance: one-sided t-test, clustered by image"
    note += "; above the same run's blind value too, paired." if blind else "."
    return section("scores", "Scores", sheet("run-scores", "Scores by benchmark and rule set", head, rows, note))


def probes_section(entry: MenuEntry) -> Html:
    """The section on the encoder's classic-vision probes; empty if the run has none."""
    known, rows = columns().classic, []
    for key, one in entry.scored.record.probes.items():
        digits = known[key].decimals or 1
        between = "–"  # noqa: RUF001
        if one.interval:
            between = f"[{printed(one.interval[0], digits)}, {printed(one.interval[1], digits)}]"
        rows.append([known[key].title, printed(one.value, digits), between, f"{one.n:,}", one.how])
    if not rows:
        return NOTHING
    head = [("", False), ("Value", True), ("95 %", True), ("n", True), ("How", False)]
    note = "Of the encoder, by this project's probes or by what probes.json in the run's folder says; see How."
    return section("classic", "Classic vision", sheet("probes", "Probes of the encoder", head, rows, note))


def training_section(folder: Path, run: str, out: Path) -> Html:
    """The section on training: the losses of both stages and the counts of rows; empty if there are no logs."""
    stages = []
    for number, what in ((1, "projector"), (2, "projector and LLM")):
        path = folder / f"stage{number}" / "log.jsonl"
        try:
            steps = [line for line in iter_jsonl(path) if "loss" in line] if path.is_file() else []
        except UserError:
            steps = []  # a damaged log does not affect the scores, so the page is written without it
        if steps:
            stages.append((f"Stage {number}: {what}", [s["step"] for s in steps], [s["loss"] for s in steps]))
    rows = [(f"Stage {number}", counts.spoken()) for number, counts in row_counts(folder).items()]
    shown = facts(rows) if rows else NOTHING
    if not stages:
        return section("training", "Training", shown) if shown else NOTHING
    ends = "; ".join(f"{name.split(':')[0].lower()} {_ending(loss):.3f}" for name, _, loss in stages)
    caption = (
        f"Light: each step. Line: running mean over a twenty-fifth of the steps. Mean of the last 20 steps: {ends}."
    )
    alt = "Training loss of each stage by step"
    figure = write_figure(out, f"losses-{run}", lambda: plots.losses(stages), alt, caption)
    return section("training", "Training", shown + figure)


def _ending(loss: list[float]) -> float:
    """The mean of the last twenty losses."""
    last = loss[-20:]
    return sum(last) / len(last)


def _recipe(config: Run) -> Html:
    sources = config.recipe.assumed()
    fields = flat(config.recipe.model_dump(mode="json", exclude={"assumptions"}))
    rows = [[key, value, sources.get(key, "")] for key, value in fields.items()]
    head = [("", False), ("Value", False), ("Assumed, after", False)]
    table = sheet("recipe-fields", "Fields of the recipe", head, rows)
    assumed = sheet("assumed", "Assumed fields", [("", False), ("Value", False), ("Assumed, after", False)],
                    [row for row in rows if row[2]])  # fmt: skip
    lead = "The paper does not state these; each has its source." if sources else "No field is marked as assumed."
    body = (assumed if sources else NOTHING) + opened(f"All {len(rows)} fields", table)
    return section("recipe", "Recipe", body, lead)


def _cost(record: RunRecord) -> Html:
    timings = record.timings
    if not timings:
        return NOTHING
    kinds: dict[str, list[Timing]] = {}
    for one in timings:
        kind = one.kind or "not said, by an older version"
        kinds.setdefault(kind if one.variant in (None, DEFAULT) else f"{kind} ({one.variant})", []).append(one)
    head = [("", False), ("Steps", True), ("Seconds", True), ("CPU seconds", True), ("Peak MiB", True)]

    def row(name: str, members: list[Timing]) -> list[str]:
        sums = [sum(one.seconds for one in members), sum(one.cpu_seconds for one in members)]
        peak = max(one.peak_mib for one in members)
        return [name, str(len(members)), *(f"{total:,.1f}" for total in sums), f"{peak:,.0f}"]

    short = sheet("cost-kinds", "Cost by kind of step", head,
                  [*(row(kind, members) for kind, members in kinds.items()), row("in all", timings)])  # fmt: skip
    every = sheet("cost-steps", "Every step", head, [row(one.title, [one]) for one in timings])
    return section("cost", "Cost", short + opened(f"All {len(timings)} steps", every))


def _world(record: RunRecord) -> Html:
    if "sessions" not in record.manifest:
        return NOTHING
    sessions = record.manifest["sessions"]
    shown, before = list[Html](), dict[str, str]()
    for number, session in enumerate(sessions, start=1):
        fields = _session(dict(session))
        # Of a later session, only what changed since the one before is shown.
        new = [(key, value) for key, value in fields.items() if before.get(key) != value]
        packages = [(key.removeprefix("packages."), value) for key, value in new if key.startswith("packages.")]
        plain = [(key, value) for key, value in new if not key.startswith("packages.")]
        if len(sessions) > 1:
            heading = Html("<h3>Session {}{}</h3>")
            shown.append(heading.format(number, ", what had changed" if before else ""))
        shown.append(facts(plain))
        if packages:
            shown.append(opened(f"{len(packages)} packages", facts(packages)))
        before = fields
    return section("environment", "Environment", NOTHING.join(shown))


def _session(session: dict[str, Any]) -> dict[str, str]:
    git = session.pop("git", None) or {}
    fields = {key: "none" if value == "[]" else value for key, value in flat(session).items()}
    if git:
        changed = git.get("changed") or []
        fields["git"] = str(git.get("commit", ""))[:12] + (f", {len(changed)} files changed" if changed else "")
    return fields
