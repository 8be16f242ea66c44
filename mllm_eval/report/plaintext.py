"""Tables as csv (for programs) and markdown (for people who read text)."""

from __future__ import annotations

import csv as csv_module
import io

from mllm_eval.escaping import cell as spreadsheet_cell
from mllm_eval.escaping import markdown as md
from mllm_eval.report.table import MISSING, Cell, Table

FACTS = (
    "run",
    "encoder",
    "recipe",
    "recipe_hash",
    "data_hash",
    "llm",
    "seed",
    "rules",
    "variant",
    "n_ok",
    "n",
    "n_unparsed",
    "n_empty",
)


def csv(table: Table) -> str:
    """The table as csv: one line per row with label, group, source, the run's facts, then the columns as printed.

    The source is `measured` or `published`. `counted` names how a row counts if that differs from the headings: `MME
    total` for measured rows, `MME total (inferred)` for the published rows that they compare with.

    A fact that shares its name with a column is called `run_<name>`. The seed is always `run_seed`, since `seed` is
    SEED-Bench. If any cell of a column has an interval, a delta or too many failed samples, the column is followed by
    `<key>_low`, `<key>_high`, `<key>_delta` or `<key>_failed`.

    Missing values are empty. Headings are the columns' keys, so that the table can be read back.
    """
    out = io.StringIO()
    writer = csv_module.writer(out, lineterminator="\n")
    facts = [key for key in FACTS if any(key in row.facts for row in table.rows)]
    taken = {"seed", *(column.key for column in table.columns)}
    head, getters = ["label", "group", "source", *(f"run_{key}" if key in taken else key for key in facts)], []
    ways = [next((cell.counted for cell in row.cells.values() if cell.counted), "") for row in table.rows]
    ways = [f"{way} (inferred)" if way and row.source == "published" else way
            for way, row in zip(ways, table.rows, strict=True)]  # fmt: skip
    head += ["counted"] * any(ways)
    for column in table.columns:
        cells = [row.cells.get(column.key, Cell()) for row in table.rows]
        head.append(column.key)
        getters.append((column.key, "text"))
        if any(cell.interval for cell in cells):
            head += [f"{column.key}_low", f"{column.key}_high"]
            getters += [(column.key, "low"), (column.key, "high")]
        if any(cell.delta for cell in cells):
            head.append(f"{column.key}_delta")
            getters.append((column.key, "delta"))
        if any(cell.failed for cell in cells):
            head.append(f"{column.key}_failed")
            getters.append((column.key, "failed"))
    writer.writerow([spreadsheet_cell(one) for one in head])
    for row, way in zip(table.rows, ways, strict=True):
        line = [row.label, row.group, row.source, *(row.facts.get(key, "") for key in facts)] + [way] * any(ways)
        line += [_value(row.cells.get(key, Cell()), part) for key, part in getters]
        writer.writerow([spreadsheet_cell(str(one)) for one in line])
    return out.getvalue()


def _value(cell: Cell, part: str) -> str:
    if part == "text":
        return "" if cell.text == MISSING else cell.text
    if part == "failed":
        return "".join(sign for sign in cell.failed if sign.isdigit())
    if part == "delta":
        return cell.delta.strip("()").replace("−", "-")  # noqa: RUF001
    limit = cell.low if part == "low" else cell.high
    return "" if limit is None else f"{limit:.4f}"


def markdown(table: Table) -> str:
    """The table as a GitHub table, with the best values in bold and footnotes below."""
    notes, marks = table.footnotes()
    lines = [f"**{md(table.title)}**", ""]
    head = ["", *(column.title for column in table.columns)]
    lines.append("| " + " | ".join(md(text) for text in head) + " |")
    lines.append("|:--" + "".join("|:--" if column.text else "|--:" for column in table.columns) + "|")
    group = ""
    for index, row in enumerate(table.rows):
        if row.group and row.group != group:
            lines.append(f"| *{md(row.group)}* " + "| " * len(table.columns) + "|")
        group = row.group
        label = md(row.label) + (" (published)" if table.mixed and row.source == "published" else "")
        cells = [label + (f" <sup>{marks[index]}</sup>" if index in marks else "")]
        for column in table.columns:
            cell = row.cells.get(column.key, Cell())
            text = f"**{md(cell.text)}**" if cell.best else md(cell.text)
            parts = (text, md(cell.failed), cell.delta + md(cell.marks), cell.interval)
            cells.append(" ".join(part for part in parts if part))
        lines.append("| " + " | ".join(cells) + " |")
    lines += [""] + [f"- {md(sentence)}" for sentence in table.sentences] + [""] * bool(table.sentences)
    lines += [f"<sup>{mark}</sup> {md(text)}  " for mark, text in notes]
    lines += [f"{md(note)}  " for note in table.notes]
    return "\n".join(lines).rstrip() + "\n"
