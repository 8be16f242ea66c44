"""The report site: static pages and data files that load nothing from elsewhere.

write_report([read_run(folder), read_run(other)], results_home() / "report")
"""

from __future__ import annotations

from mllm_eval.report.site.build import write_report

__all__ = ["write_report"]
