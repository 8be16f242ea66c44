"""Tables as LaTeX that compiles in a plain article with booktabs and graphicx."""

from __future__ import annotations

import unicodedata
from itertools import groupby

from mllm_eval.report.table import Cell, Column, Row, Table

_SIGNS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%",
    "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''", "–": "--", "—": "---",  # noqa: RUF001
    "−": "$-$", "×": r"$\times$", "±": r"$\pm$", "≤": r"$\le$", "≥": r"$\ge$",  # noqa: RUF001
    "→": r"$\to$", "’": "'", "“": "``", "”": "''",  # noqa: RUF001
    # a star or bracket after a line break would be taken for its argument
    "*": r"{*}", "[": r"{[}", "]": r"{]}", "`": r"\textasciigrave{}",
}  # fmt: skip


def escaped(text: str) -> str:
    """Any text as LaTeX that prints it; letters without an ASCII form become `?`."""
    out = []
    for sign in " ".join(text.split()):
        if sign in _SIGNS:
            out.append(_SIGNS[sign])
        elif sign.isascii():
            out.append(sign if sign.isprintable() else "")
        else:
            plain = unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode()
            out.append("".join(_SIGNS.get(part, part) for part in plain) or "?")
    return "".join(out)


def latex(table: Table) -> str:
    """A `table` environment, scaled to the width of the text where it is wider."""
    notes, marks = table.footnotes()
    spec = "l" + "".join("l" if column.text else "r" for column in table.columns)
    lines = [
        r"% needs \usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escaped(table.title)}}}",
        rf"  \label{{tab:{''.join(sign for sign in table.name if sign.isalnum() or sign in '-')}}}",
        r"  \setlength{\tabcolsep}{3pt}",
        r"  \sbox0{%",
        rf"  \begin{{tabular}}{{{spec}}}",
        r"    \toprule",
    ]
    if any(column.group for column in table.columns):
        lines += _groups(table.columns)
    lines.append("    " + " & ".join(["", *(escaped(column.title) for column in table.columns)]) + r" \\")
    lines.append(r"    \midrule")
    group = ""
    for index, row in enumerate(table.rows):
        if row.group and row.group != group:
            if index:
                lines.append(r"    \midrule")
            lines.append(
                rf"    \multicolumn{{{len(table.columns) + 1}}}{{l}}{{\textit{{{escaped(row.group)}}}}} \\"
            )
        group = row.group
        lines.append(
            "    " + " & ".join(_line(row, table.columns, marks.get(index, ""), table.mixed)) + r" \\"
        )
    lines += [r"    \bottomrule", r"  \end{tabular}}"]
    lines.append(r"  \ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi")
    below = [rf"\textsuperscript{{{mark}}}\,{escaped(text)}" for mark, text in notes]
    below += [escaped(text) for text in (*table.notes, *table.sentences)]
    if below:
        lines += [r"  \par\smallskip", r"  \begin{minipage}{\linewidth}\footnotesize\raggedright"]
        lines.append("    " + "\\par\n    ".join(below))
        lines.append(r"  \end{minipage}")
    lines.append(r"\end{table}")
    return "\n".join(lines) + "\n"


def _groups(shown: tuple[Column, ...]) -> list[str]:
    cells, rules, at = [""], [], 2
    for name, members in groupby(shown, key=lambda column: column.group):
        width = len(list(members))
        cells.append(rf"\multicolumn{{{width}}}{{c}}{{{escaped(name)}}}")
        if name:
            rules.append(rf"\cmidrule(lr){{{at}-{at + width - 1}}}")
        at += width
    return ["    " + " & ".join(cells) + r" \\", "    " + " ".join(rules)]


def _line(row: Row, shown: tuple[Column, ...], mark: str, tagged: bool) -> list[str]:
    label = escaped(row.label) + (rf"\textsuperscript{{{mark}}}" if mark else "")
    cells = [label + (r" {\scriptsize published}" if tagged and row.source == "published" else "")]
    for column in shown:
        cell = row.cells.get(column.key, Cell())
        text = rf"\textbf{{{escaped(cell.text)}}}" if cell.best else escaped(cell.text)
        small = " ".join(escaped(part) for part in (cell.delta, cell.interval) if part)
        stars = rf"\textsuperscript{{{escaped(cell.marks)}}}" if cell.marks else ""
        cells.append(text + stars + (rf" {{\scriptsize {small}}}" if small else ""))
    return cells
