"""Read runs, external models and published rows for tables. Only category means and AVG are computed here."""

from __future__ import annotations

from mllm_eval.results.collection import Records, hold_to_known_rules, read_records
from mllm_eval.results.columns import AVERAGE, CountedAs, TableColumns, columns, strata
from mllm_eval.results.probes import Probe, read_probes
from mllm_eval.results.published import contradiction, published, values
from mllm_eval.results.record import RunRecord, read_run, record_of, reported
from mllm_eval.results.timings import Timing, read_timings

__all__ = [
    "AVERAGE",
    "CountedAs",
    "Probe",
    "Records",
    "RunRecord",
    "TableColumns",
    "Timing",
    "columns",
    "contradiction",
    "hold_to_known_rules",
    "published",
    "read_probes",
    "read_records",
    "read_run",
    "read_timings",
    "record_of",
    "reported",
    "strata",
    "values",
]
