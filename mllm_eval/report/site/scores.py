"""The big table of the first page: tabs by category, sortable, published rows on demand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mllm_eval.escaping import html as escape
from mllm_eval.report.comparison import score_columns
from mllm_eval.report.table import MISSING, Cell, Column, Row
from mllm_eval.results import Columns
from mllm_eval.results import columns as known_columns

OWN_TABS = {"Other": "other", "Classic vision": "classic"}


def columns() -> tuple[Column, ...]:
    """The columns where there are no runs: the paper's."""
    return score_columns(list(known_columns().benchmarks))


def html(
    shown: Sequence[Column],
    rows: Sequence[Row],
    published: Sequence[Row],
    hues: Mapping[str, int],
    files: Mapping[str, str],
    known: Columns,
) -> str:
    """Tabs, the switch for published rows, and the table; without script, all columns and rows are shown.

    `published`: the rows that the switch shows, published ones and measured ones counted as those are.
    """
    means = [column.key for column in shown if not column.group]
    tabs = [("means", "Categories")] if means else []
    tabs += [
        (key, named.title) for key, named in known.categories.items() if any(c.group == named.title for c in shown)
    ]
    tabs += [(key, group) for group, key in OWN_TABS.items() if any(column.group == group for column in shown)]
    tabs.append(("all", "All"))
    buttons = "".join(
        f'<button type="button" role="tab" data-tab="{escape(key)}" aria-selected="{str(not i).lower()}" '
        f'tabindex="{0 if not i else -1}">{escape(name)}</button>'
        for i, (key, name) in enumerate(tabs)
    )
    checked = "" if rows else " checked"
    switch = f'<label class="switch"><input type="checkbox" id="published"{checked}> published rows</label>'
    heads = "".join(
        f'<th scope="col" class="num" data-tab="{_tab(column, known)}" aria-sort="none">'
        f'<button type="button">{escape(column.title)}</button></th>'
        for column in shown
    )
    body = "\n".join(
        [_row(row, shown, hues, files, known) for row in rows]
        + [_row(row, shown, hues, files, known, "published") for row in published]
    )
    return (
        f'<div class="bar" data-js hidden><div role="tablist" aria-label="Columns">{buttons}</div>{switch}</div>\n'
        '<div class="scroll" tabindex="0" role="region" aria-label="Scores"><table id="scores"><thead><tr>'
        f'<th scope="col" aria-sort="none"><button type="button">Encoder</button></th>{heads}'
        '<th scope="col" class="num" aria-sort="none"><button type="button">Scored</button></th></tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _tab(column: Column, known: Columns) -> str:
    if not column.group:
        return f"means {column.key}"  # a category's mean stands before its benchmarks, too
    return next(
        (key for key, named in known.categories.items() if named.title == column.group),
        OWN_TABS.get(column.group, "other"),
    )


def _row(
    row: Row,
    shown: Sequence[Column],
    hues: Mapping[str, int],
    files: Mapping[str, str],
    known: Columns,
    switched: str = "",
) -> str:
    label = escape(row.label)
    if row.label in files and row.source == "measured":
        label = f'<a href="{escape(files[row.label])}">{label}</a>'
    dot = f'<i class="hue{hues[row.label] % 8}"></i>' if row.label in hues else "<i></i>"
    notes = "".join(f'<small class="why">{escape(note)}</small>' for note in row.notes if switched)
    cells = [f'<th scope="row">{dot}{label}{notes}</th>']
    for column in shown:
        cell = row.cells.get(column.key, Cell())
        value = "" if cell.value is None or cell.text == MISSING else f"{cell.value:.6f}"
        text = f"<b>{escape(cell.text)}</b>" if cell.best else escape(cell.text)
        small = f"<small>{escape(cell.interval)}</small>" if cell.interval else ""
        cells.append(f'<td class="num" data-v="{value}" data-tab="{_tab(column, known)}">{text}{small}</td>')
    counts, missed = "", ""
    if "n" in row.facts:
        asked, scored, unread = (int(row.facts[key]) for key in ("n", "n_ok", "n_unparsed"))
        counts = f"{scored:,} / {asked:,}"
        missed = f"<small>{unread:,} unparsed</small>" if unread else ""
        missed += f"<small>{row.facts['n_empty']} empty</small>" if int(row.facts.get("n_empty", 0)) else ""
    cells.append(f'<td class="num" data-v="{row.facts.get("n_ok", "")}">{counts or MISSING}{missed}</td>')
    kind = " ".join(dict.fromkeys(filter(None, (row.source, "aside" if row.aside else "", switched))))
    return f'<tr class="{kind}">{"".join(cells)}</tr>'
