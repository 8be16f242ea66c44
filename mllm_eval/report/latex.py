"""Tables as LaTeX for a plain article with booktabs and graphicx."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from mllm_eval.escaping import latex as escaped
from mllm_eval.report.table import Cell, Column, Row, Table, blocks

LETTERS = 108  # characters that fit a line of an article in small type, roughly


def latex(table: Table) -> str:
    """The table as a LaTeX `table` environment.

    The columns of a wide table are stacked in blocks. A block that is still wider than the line is scaled down, and so
    is the whole table if it is higher than a page.
    """
    notes, marks = table.footnotes()
    lines = [
        r"% needs \usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escaped(table.title)}}}",
        rf"  \label{{tab:{re.sub('[^A-Za-z0-9-]', '', table.name)}}}",
        r"  \setlength{\tabcolsep}{3pt}\footnotesize",
        r"  \sbox2{\begin{minipage}{\linewidth}\centering",
    ]
    for block in blocks(table, LETTERS):
        lines += [r"  \sbox0{%", *_tabular(table, block, marks), "  }"]
        lines.append(r"  \ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi\par\smallskip")
    below = [rf"\textsuperscript{{{mark}}}\,{escaped(text)}" for mark, text in notes]
    below += [escaped(text) for text in (*table.notes, *table.sentences)]
    if below:
        lines += [r"  \begin{minipage}{\linewidth}\scriptsize\raggedright"]
        lines.append("    " + "\\par\n    ".join(below))
        lines.append(r"  \end{minipage}")
    lines += [
        r"  \end{minipage}}",
        r"  \ifdim\dimexpr\ht2+\dp2\relax>.85\textheight\resizebox*{!}{.85\textheight}{\usebox2}\else\usebox2\fi",
    ]
    lines.append(r"\end{table}")
    return "\n".join(lines) + "\n"


def _tabular(table: Table, shown: Sequence[Column], marks: dict[int, str]) -> list[str]:
    spec = "l" + "".join("l" if column.text else "r" for column in shown)
    lines = [rf"  \begin{{tabular}}{{{spec}}}", r"    \toprule"]
    if any(column.group for column in shown):
        lines += _groups(shown)
    lines.append("    " + " & ".join(["", *(escaped(column.title) for column in shown)]) + r" \\")
    lines.append(r"    \midrule")
    group = ""
    for index, row in enumerate(table.rows):
        if row.group and row.group != group:
            if index:
                lines.append(r"    \midrule")
            lines.append(rf"    \multicolumn{{{len(shown) + 1}}}{{l}}{{\textit{{{escaped(row.group)}}}}} \\")
        group = row.group
        lines.append("    " + " & ".join(_line(row, shown, marks.get(index, ""), table.mixed)) + r" \\")
        limits = [row.cells.get(column.key, Cell()).interval for column in shown]
        if any(limits):
            small = [rf"{{\scriptsize {_numbers(limit)}}}" if limit else "" for limit in limits]
            lines.append("    " + " & ".join(["", *small]) + r" \\[2pt]")
    return [*lines, r"    \bottomrule", r"  \end{tabular}%"]


def _numbers(text: str) -> str:
    """Escapes a text of numbers and sets a hyphen before a digit as a minus sign."""
    return re.sub(r"(?<![\w.])-(?=[\d.])", "$-$", escaped(text))


def _groups(shown: Sequence[Column]) -> list[str]:
    cells, rules, at = [""], [], 2
    for name, members in groupby(shown, key=lambda column: column.group):
        width = len(list(members))
        cells.append(rf"\multicolumn{{{width}}}{{c}}{{{escaped(name)}}}")
        if name:
            rules.append(rf"\cmidrule(lr){{{at}-{at + width - 1}}}")
        at += width
    return ["    " + " & ".join(cells) + r" \\", "    " + " ".join(rules)]


def _line(row: Row, shown: Sequence[Column], mark: str, tagged: bool) -> list[str]:
    label = escaped(row.label) + (rf"\textsuperscript{{{mark}}}" if mark else "")
    cells = [label + (r" {\scriptsize published}" if tagged and row.source == "published" else "")]
    for column in shown:
        cell = row.cells.get(column.key, Cell())
        text = escaped(cell.text) if column.text else _numbers(cell.text)
        text = rf"\textbf{{{text}}}" if cell.best else text
        if cell.failed:
            text += rf" {{\scriptsize {escaped(cell.failed)}}}"
        if cell.delta:
            text += rf" {{\scriptsize {escaped(cell.delta)}}}"
        if cell.marks:
            text += rf"\textsuperscript{{{escaped(cell.marks)}}}"
        cells.append(text)
    return cells
