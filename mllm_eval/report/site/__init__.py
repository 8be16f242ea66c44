"""The report site: static pages, data files beside them, nothing fetched from elsewhere.

>>> write_report([run_folder, other_folder], results_home() / "report")
"""

from __future__ import annotations

from mllm_eval.report.site.build import write_report

__all__ = ["write_report"]
