"""Tables as one self-contained html page: light and dark, readable on a phone, printable."""

from __future__ import annotations

from itertools import groupby, pairwise

from mllm_eval.html import NOTHING, Html
from mllm_eval.report.table import Cell, Column, Row, Table

_STYLE = Html("""
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --line: #d5dae0;
  --page: #fff; --band: #f5f7f9; --best: #0b5cad; --gain: #1a7037; --loss: #a8321f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ebef; --soft: #9aa5b1; --line: #39414b;
  --page: #14171b; --band: #1c2127; --best: #7fbcff; --gain: #74d18c; --loss: #ff9a86; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem clamp(.75rem, 3vw, 2.5rem); max-width: 110rem; color: var(--ink);
  background: var(--page); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.35rem; line-height: 1.25; margin: 0 0 .75rem; }
.scroll { overflow-x: auto; border-block: 2px solid var(--ink); }
.scroll:focus-visible { outline: 2px solid var(--best); outline-offset: 2px; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-variant-numeric: tabular-nums;
  font-size: .875rem; }
th, td { padding: .38rem .5rem; text-align: right; white-space: nowrap; vertical-align: baseline; }
th { font-weight: 600; }
thead th { border-bottom: 1px solid var(--line); }
thead tr:first-child:not(:last-child) th { color: var(--soft); text-align: center; font-weight: 500; }
thead tr:last-child th { border-bottom: 1px solid var(--ink); }
.text { text-align: left; }
th:first-child { position: sticky; left: 0; background: var(--page); text-align: left; z-index: 1; }
.first { border-left: 1px solid var(--line); }
tbody th { font-weight: 500; }
tbody tr:hover > * { background: var(--band); }
tr.group th { color: var(--soft); font-style: italic; font-weight: 400; padding-top: .9rem; }
tr.aside > * { color: var(--soft); }
.best { color: var(--best); font-weight: 700; }
.gain, .loss, .limits { font-size: .8em; }
.gain { color: var(--gain); } .loss { color: var(--loss); }
.limits { display: block; color: var(--soft); }
.tag { font-size: .72em; color: var(--soft); border: 1px solid var(--line); border-radius: 1em;
  padding: .05em .6em; margin-left: .5em; font-weight: 400; }
sup { line-height: 0; font-size: .72em; color: var(--soft); }
.words { margin: 1.1rem 0 0; padding-left: 1.2rem; max-width: 60rem; }
.notes { margin: 1.1rem 0 0; color: var(--soft); font-size: .8rem; max-width: 60rem; }
.notes p { margin: .2rem 0; }
@media (max-width: 40rem) { th:first-child { min-width: 7rem; max-width: 9.5rem; white-space: normal; } }
@media print { body { padding: 0; max-width: none; } table { font-size: 6.5pt; } 
  th, td { padding: 1.5pt 2.5pt; } .scroll { overflow: visible; } }
""")


# Sets no colours or fonts, which a notebook has of its own.
_FRAGMENT = Html("""
.mllm-eval .scroll { overflow-x: auto; }
.mllm-eval td, .mllm-eval th { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.mllm-eval .text, .mllm-eval th:first-child { text-align: left; }
.mllm-eval .best { font-weight: 700; } .mllm-eval .aside { opacity: .7; }
.mllm-eval .gain, .mllm-eval .loss, .mllm-eval .limits, .mllm-eval .notes { font-size: .85em; }
.mllm-eval .limits { display: block; }
""")


def fragment(table: Table) -> Html:
    """The table as html for a notebook, with a style that affects nothing else in it."""
    return Html(
        '<div class="mllm-eval"><style>{}</style>\n<p><b>{}</b></p>\n<div class="scroll">{}</div>'
    ).format(_FRAGMENT, table.title, _inner(table))  # fmt: skip


def html(table: Table) -> Html:
    """The table as a whole page that loads nothing from elsewhere."""
    return Html(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n"
        '<h1 id="title">{title}</h1>\n'
        '<div class="scroll" tabindex="0" role="region" aria-labelledby="title">\n'
        "{inner}</main>\n</body>\n</html>\n"
    ).format(title=table.title, style=_STYLE, inner=_inner(table))


def _inner(table: Table) -> Html:
    """The table's html up to the end of its scrolling box, and below it the sentences and notes."""
    notes, marks = table.footnotes()
    starts = _starts(table.columns)
    body = []
    group = ""
    for index, row in enumerate(table.rows):
        if row.group and row.group != group:
            heading = Html('<tr class="group"><th scope="rowgroup" colspan="{}">{}</th></tr>')
            body.append(heading.format(len(table.columns) + 1, row.group))
        group = row.group
        body.append(_line(row, table.columns, starts, marks.get(index, ""), table.mixed))
    words = NOTHING.join(Html("<li>{}</li>").format(sentence) for sentence in table.sentences)
    below = NOTHING.join(Html("<p><sup>{}</sup> {}</p>").format(mark, text) for mark, text in notes)
    below += NOTHING.join(Html("<p>{}</p>").format(note) for note in table.notes)
    whole = Html("<table>\n<thead>\n{}</thead>\n<tbody>\n{}\n</tbody>\n</table>\n</div>\n")
    return (
        whole.format(_head(table.columns, starts), Html("\n").join(body))
        + (Html('<ul class="words">{}</ul>\n').format(words) if words else NOTHING)
        + (Html('<div class="notes">{}</div>\n').format(below) if below else NOTHING)
    )


def _starts(shown: tuple[Column, ...]) -> set[str]:
    return {b.key for a, b in pairwise(shown) if a.group != b.group}


def _classes(*names: str) -> Html:
    kept = " ".join(name for name in names if name)
    return Html(' class="{}"').format(kept) if kept else NOTHING


def _at(column: Column, starts: set[str]) -> Html:
    return _classes("text" if column.text else "", "first" if column.key in starts else "")


def _head(shown: tuple[Column, ...], starts: set[str]) -> Html:
    rows = NOTHING
    if any(column.group for column in shown):
        rows += Html("<tr><th></th>")
        for name, members in groupby(shown, key=lambda column: column.group):
            part = list(members)
            line = _classes("first" if part[0].key in starts else "")
            rows += Html('<th scope="colgroup" colspan="{}"{}>{}</th>').format(len(part), line, name)
        rows += Html("</tr>\n")
    one = Html('<th scope="col"{}>{}</th>')
    cells = NOTHING.join(one.format(_at(column, starts), column.title) for column in shown)
    return Html('{}<tr><th scope="col"></th>{}</tr>\n').format(rows, cells)


def _line(row: Row, shown: tuple[Column, ...], starts: set[str], mark: str, tagged: bool) -> Html:
    label = NOTHING + row.label + (Html(" <sup>{}</sup>").format(mark) if mark else NOTHING)
    if tagged and row.source == "published":
        label += Html('<span class="tag">published</span>')
    cells = []
    for column in shown:
        cell = row.cells.get(column.key, Cell())
        text = Html('<span class="best">{}</span>' if cell.best else "{}").format(cell.text)
        if cell.failed:
            text += Html(' <span class="loss">{}</span>').format(cell.failed)
        if cell.delta:
            up = cell.delta.startswith("(+") == (column.better == "high")
            text += Html(' <span class="{}">{}</span>').format("gain" if up else "loss", cell.delta)
        if cell.marks:
            text += Html("<sup>{}</sup>").format(cell.marks)
        if cell.interval:
            text += Html('<span class="limits">{}</span>').format(cell.interval)
        cells.append(Html("<td{}>{}</td>").format(_at(column, starts), text))
    aside = _classes("aside" if row.aside else "")
    return Html('<tr{}><th scope="row">{}</th>{}</tr>').format(aside, label, NOTHING.join(cells))
