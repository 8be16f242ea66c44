"""The page of classic vision and alignment: probes with their tests, sweeps over layers, heat maps, curves."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mllm_eval.html import NOTHING, Html
from mllm_eval.report.alignmenttable import alignment_table
from mllm_eval.report.probetable import probe_table
from mllm_eval.report.site.contents import Evidence
from mllm_eval.report.site.figures import write_figure
from mllm_eval.report.site.markup import headline, listed, note, section, sheet
from mllm_eval.report.site.visionplots import against_size, heat_maps, sized, sweep_figure
from mllm_eval.report.table import MISSING, Cell, Column, Row, Table
from mllm_eval.results.aligned import Aligned, saved_alignments
from mllm_eval.results.probed import Probed, saved_probes
from mllm_eval.run import Run

FILE = "vision.html"


def vision_page(evidence: Evidence, out: Path) -> Html:
    """The body of vision.html; empty if nothing of it was measured."""
    probed = _probed(evidence)
    usual = {folder: one for folder, one in probed.items() if one.default}
    swept = [one for one in probed.values() if len(one.readings) > 1]
    aligned = _of_encoders(saved_alignments(), evidence)
    parts = []
    if usual:
        parts.append(_table("probes", "Probes", probe_table(usual)))
    if swept:
        figure = write_figure(out, "sweep", partial(sweep_figure, swept), "Value of every block over depth",
                         "Band: 95 % interval, bootstrap over test images.")  # fmt: skip
        said = probe_table({folder: one for folder, one in probed.items() if one in swept}).sentences
        parts.append(section("depth", "Which block serves a task best", figure + listed(said, "words")))
    # Scores compare only within one protocol, metric and set of pictures.
    for number, key in enumerate(dict.fromkeys(_kind(one) for one in aligned)):
        parts.append(_aligned([one for one in aligned if _kind(one) == key], out, number))
    if not parts:
        return NOTHING
    lead = "What simple heads read from the frozen encoders, and how near they are to language models."
    return Html("\n").join([headline("Classic vision and alignment", lead), *parts])


def _probed(evidence: Evidence) -> dict[Path, Probed]:
    """The stored probes that belong to the shown runs, by folder.

    They were measured for the runs' data pin; of an encoder that has a run, only those of the run's weights count.
    """
    own = _weights(evidence)
    return {
        folder: one
        for folder, one in saved_probes().items()
        if one.rule != "val" and evidence.pin in ("", one.beside) and one.weights in own.get(one.encoder, {one.weights})
    }


def _of_encoders(alignments: Sequence[Aligned], evidence: Evidence) -> list[Aligned]:
    own = _weights(evidence)
    return [one for one in alignments if one.weights in own.get(one.encoder, {one.weights})]


def _weights(evidence: Evidence) -> dict[str, set[str]]:
    """Encoder -> digests of the weights that its runs used."""
    sums: dict[str, set[str]] = {}
    for entry in evidence.seeing:
        run = entry.scored.record.run
        if isinstance(run, Run):
            sums.setdefault(run.encoder.name, set()).add(run.weights.get("encoder", ""))
    return sums


def _kind(one: Aligned) -> tuple[str, str, str]:
    return one.protocol, one.metric, one.pictures


def _aligned(alignments: list[Aligned], out: Path, number: int) -> Html:
    name = f"alignment-{number}" if number else "alignment"
    first = alignments[0]
    figures = write_figure(out, f"{name}-layers", partial(heat_maps, alignments),
                      "Every block of each encoder against every layer of each language model",
                      f"{first.metric} of every pair of layers, one scale; square: the best pair.")  # fmt: skip
    if sized(alignments):
        figures += write_figure(out, f"{name}-size", partial(against_size, alignments), "Alignment against parameters",
                           "Line: 95 % interval. Dashed: the 95th percentile of what chance gives.")  # fmt: skip
    heading = f"Alignment with language models: {first.metric}" + (f", {first.data}" if first.data else "")
    return _table(name, heading, alignment_table(alignments), figures)


def _table(name: str, heading: str, table: Table, figures: Html = NOTHING) -> Html:
    """A section with the sentences on the tests, the figures, and the table with its footnotes."""
    marks, of_row = table.footnotes()
    head = [("", False), *((column.title, not column.text) for column in table.columns)]
    rows = [
        [
            _named(row, of_row.get(at, "")),
            *(_text(row.cells.get(column.key, Cell()), column) for column in table.columns),
        ]
        for at, row in enumerate(table.rows)
    ]
    notes = [*(f"{mark}: {text}" for mark, text in marks), *table.notes]
    own = sheet(f"{name}-table", table.title, head, rows)
    body = NOTHING.join([listed(table.sentences, "words"), figures, own, *map(note, notes)])
    return section(name, heading, body)


def _named(row: Row, marks: str) -> str:
    return f"{row.label} ({marks})" if marks else row.label


def _text(cell: Cell, column: Column) -> str:
    if cell.text == MISSING:
        return MISSING
    return f"{cell.text} {cell.interval}".strip() if not column.text else cell.text
