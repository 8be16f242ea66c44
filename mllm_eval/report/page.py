"""Tables as one html page that needs nothing else: light and dark, readable on a phone, printable."""

from __future__ import annotations

from itertools import groupby, pairwise

from mllm_eval.escaping import html as escape
from mllm_eval.report.table import Cell, Column, Row, Table

_STYLE = """
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
"""


# A notebook has colours and fonts of its own.
_FRAGMENT = """
.mllm-eval .scroll { overflow-x: auto; }
.mllm-eval td, .mllm-eval th { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.mllm-eval .text, .mllm-eval th:first-child { text-align: left; }
.mllm-eval .best { font-weight: 700; } .mllm-eval .aside { opacity: .7; }
.mllm-eval .gain, .mllm-eval .loss, .mllm-eval .limits, .mllm-eval .notes { font-size: .85em; }
.mllm-eval .limits { display: block; }
"""


def fragment(table: Table) -> str:
    """The table for a notebook: no page around it, and a style that touches nothing else. Escaped as `html` is."""
    head = f"<p><b>{escape(table.title)}</b></p>"
    return f'<div class="mllm-eval"><style>{_FRAGMENT}</style>\n{head}\n<div class="scroll">{_inner(table)}</div>'


def html(table: Table) -> str:
    """A whole page. Everything that comes from files is escaped; nothing is fetched."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(table.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1 id="title">{escape(table.title)}</h1>\n'
        '<div class="scroll" tabindex="0" role="region" aria-labelledby="title">\n'
        f"{_inner(table)}</main>\n</body>\n</html>\n"
    )


def _inner(table: Table) -> str:
    """Rows and cells, the end of the box that they scroll in, and the words below."""
    notes, marks = table.footnotes()
    starts = _starts(table.columns)
    body = []
    group = ""
    for index, row in enumerate(table.rows):
        if row.group and row.group != group:
            body.append(
                f'<tr class="group"><th scope="rowgroup" colspan="{len(table.columns) + 1}">'
                f"{escape(row.group)}</th></tr>"
            )
        group = row.group
        body.append(_line(row, table.columns, starts, marks.get(index, ""), table.mixed))
    words = "".join(f"<li>{escape(sentence)}</li>" for sentence in table.sentences)
    below = "".join(f"<p><sup>{escape(mark)}</sup> {escape(text)}</p>" for mark, text in notes)
    below += "".join(f"<p>{escape(note)}</p>" for note in table.notes)
    return (
        "<table>\n"
        f"<thead>\n{_head(table.columns, starts)}</thead>\n<tbody>\n"
        + "\n".join(body)
        + "\n</tbody>\n</table>\n</div>\n"
        + (f'<ul class="words">{words}</ul>\n' if words else "")
        + (f'<div class="notes">{below}</div>\n' if below else "")
    )


def _starts(shown: tuple[Column, ...]) -> set[str]:
    return {b.key for a, b in pairwise(shown) if a.group != b.group}


def _classes(*names: str) -> str:
    kept = " ".join(name for name in names if name)
    return f' class="{kept}"' if kept else ""


def _at(column: Column, starts: set[str]) -> str:
    return _classes("text" if column.text else "", "first" if column.key in starts else "")


def _head(shown: tuple[Column, ...], starts: set[str]) -> str:
    rows = ""
    if any(column.group for column in shown):
        rows += "<tr><th></th>"
        for name, members in groupby(shown, key=lambda column: column.group):
            part = list(members)
            line = _classes("first" if part[0].key in starts else "")
            rows += f'<th scope="colgroup" colspan="{len(part)}"{line}>{escape(name)}</th>'
        rows += "</tr>\n"
    cells = "".join(f'<th scope="col"{_at(column, starts)}>{escape(column.title)}</th>' for column in shown)
    return f'{rows}<tr><th scope="col"></th>{cells}</tr>\n'


def _line(row: Row, shown: tuple[Column, ...], starts: set[str], mark: str, tagged: bool) -> str:
    label = escape(row.label) + (f" <sup>{escape(mark)}</sup>" if mark else "")
    if tagged and row.source == "published":
        label += '<span class="tag">published</span>'
    cells = []
    for column in shown:
        cell = row.cells.get(column.key, Cell())
        text = f'<span class="best">{escape(cell.text)}</span>' if cell.best else escape(cell.text)
        if cell.failed:
            text += f' <span class="loss">{escape(cell.failed)}</span>'
        if cell.delta:
            up = cell.delta.startswith("(+") == (column.better == "high")
            text += f' <span class="{"gain" if up else "loss"}">{escape(cell.delta)}</span>'
        if cell.marks:
            text += f"<sup>{escape(cell.marks)}</sup>"
        if cell.interval:
            text += f'<span class="limits">{escape(cell.interval)}</span>'
        cells.append(f"<td{_at(column, starts)}>{text}</td>")
    return f'<tr{_classes("aside" if row.aside else "")}><th scope="row">{label}</th>{"".join(cells)}</tr>'
