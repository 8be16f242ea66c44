"""Makes tables of runs, states in sentences what the tests found, and writes both to files.

It reads result files and loads no model.

    table = comparison([read_run(folder), read_run(other)], baseline="mini-random")
    write_tables(table, results_home() / "tables", "compare")
"""

from __future__ import annotations

from mllm_eval.report.chance import AboveChance, above_chance, chance_table
from mllm_eval.report.comparison import comparison
from mllm_eval.report.differences import Difference, differences
from mllm_eval.report.evidence import Scored, read_scored
from mllm_eval.report.paper import named_table, table_names
from mllm_eval.report.render import FORMATS, render, write_tables
from mllm_eval.report.table import Cell, Column, Row, Table
from mllm_eval.report.tableoptions import TableOptions
from mllm_eval.report.words import sentences

__all__ = [
    "FORMATS",
    "AboveChance",
    "Cell",
    "Column",
    "Difference",
    "Row",
    "Scored",
    "Table",
    "TableOptions",
    "above_chance",
    "chance_table",
    "comparison",
    "differences",
    "named_table",
    "read_scored",
    "render",
    "sentences",
    "table_names",
    "write_tables",
]
