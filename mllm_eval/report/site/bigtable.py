"""The large table of the overview page: tabs by category, sortable, with published rows on demand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mllm_eval.html import NOTHING, Html
from mllm_eval.report.comparison import score_columns
from mllm_eval.report.table import MISSING, Cell, Column, Row
from mllm_eval.results import TableColumns
from mllm_eval.results import columns as known_columns

_SMALL = Html("<small>{}</small>")
OWN_TABS = {"Other": "other", "Classic vision": "classic"}


def columns() -> tuple[Column, ...]:
    """The columns of the paper's table, for a report without runs."""
    return score_columns(list(known_columns().benchmarks))


def html(
    shown: Sequence[Column],
    rows: Sequence[Row],
    published: Sequence[Row],
    hues: Mapping[str, int],
    files: Mapping[str, str],
    known: TableColumns,
) -> Html:
    """Tabs, the switch for published rows, and the table. Without JavaScript all columns and rows are visible.

    `published`: the rows that the switch shows. They include measured rows that count as the published ones do. `hues`
    and `files`: row label -> index of its colour, and file of its page.
    """
    means = [column.key for column in shown if not column.group]
    tabs = [("means", "Categories")] if means else []
    tabs += [
        (key, named.title) for key, named in known.categories.items() if any(c.group == named.title for c in shown)
    ]
    tabs += [(key, group) for group, key in OWN_TABS.items() if any(column.group == group for column in shown)]
    tabs.append(("all", "All"))
    button = Html('<button type="button" role="tab" data-tab="{}" aria-selected="{}" tabindex="{}">{}</button>')
    buttons = NOTHING.join(
        button.format(key, str(not i).lower(), 0 if not i else -1, name) for i, (key, name) in enumerate(tabs)
    )
    checked = NOTHING if rows else Html(" checked")
    switch = Html(
        '<label class="switch"><input type="checkbox" id="published"{}> published rows</label>'
    ).format(checked)  # fmt: skip
    head = Html('<th scope="col" class="num" data-tab="{}" aria-sort="none"><button type="button">{}</button></th>')
    heads = NOTHING.join(head.format(_tab(column, known), column.title) for column in shown)
    body = Html("\n").join(
        [_row(row, shown, hues, files, known) for row in rows]
        + [_row(row, shown, hues, files, known, "published") for row in published]
    )
    return Html(
        '<div class="bar" data-js hidden><div role="tablist" aria-label="Columns">{}</div>{}</div>\n'
        '<div class="scroll" tabindex="0" role="region" aria-label="Scores"><table id="scores"><thead><tr>'
        '<th scope="col" aria-sort="none"><button type="button">Encoder</button></th>{}'
        '<th scope="col" class="num" aria-sort="none"><button type="button">Scored</button></th></tr></thead>\n'
        "<tbody>\n{}\n</tbody></table></div>"
    ).format(buttons, switch, heads, body)


def _tab(column: Column, known: TableColumns) -> str:
    if not column.group:
        return f"means {column.key}"  # a category's mean is shown on the tab of its benchmarks, too
    return next(
        (key for key, named in known.categories.items() if named.title == column.group),
        OWN_TABS.get(column.group, "other"),
    )


def _row(
    row: Row,
    shown: Sequence[Column],
    hues: Mapping[str, int],
    files: Mapping[str, str],
    known: TableColumns,
    switched: str = "",
) -> Html:
    label = Html.escape(row.label)
    if row.label in files and row.source == "measured":
        label = Html('<a href="{}">{}</a>').format(files[row.label], label)
    dot = Html('<i class="hue{}"></i>').format(hues[row.label] % 8) if row.label in hues else Html("<i></i>")
    notes = NOTHING.join(Html('<small class="why">{}</small>').format(note) for note in row.notes if switched)
    cells = [Html('<th scope="row">{}{}{}</th>').format(dot, label, notes)]
    for column in shown:
        cell = row.cells.get(column.key, Cell())
        value = "" if cell.value is None or cell.text == MISSING else f"{cell.value:.6f}"
        text = Html("<b>{}</b>" if cell.best else "{}").format(cell.text)
        small = _SMALL.format(cell.interval) if cell.interval else NOTHING
        one = Html('<td class="num" data-v="{}" data-tab="{}">{}{}</td>')
        cells.append(one.format(value, _tab(column, known), text, small))
    counts, missed = "", NOTHING
    if "n" in row.facts:
        asked, scored, unread = (int(row.facts[key]) for key in ("n", "n_ok", "n_unparsed"))
        counts = f"{scored:,} / {asked:,}"
        missed = _SMALL.format(f"{unread:,} unparsed") if unread else NOTHING
        missed += _SMALL.format(f"{row.facts['n_empty']} empty") if int(row.facts.get("n_empty", 0)) else NOTHING
    last = Html('<td class="num" data-v="{}">{}{}</td>')
    cells.append(last.format(row.facts.get("n_ok", ""), counts or MISSING, missed))
    kind = " ".join(dict.fromkeys(filter(None, (row.source, "aside" if row.aside else "", switched))))
    return Html('<tr class="{}">{}</tr>').format(kind, NOTHING.join(cells))
