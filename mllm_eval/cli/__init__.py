"""The command line: a thin layer over `mllm_eval.pipeline` and its neighbours.

Modules here import nothing heavy at their top, so that `--help` answers at once.
"""

from __future__ import annotations


def main() -> None:
    """Entry point of `mllm-eval`."""
    from mllm_eval.cli.app import app

    app(prog_name="mllm-eval")
