"""The command line: commands that parse options, call the library (mostly `mllm_eval.pipeline`) and print results.

Modules of this package import nothing heavy at their top level, so that `--help` answers at once.
"""

from __future__ import annotations


def main() -> None:
    """Entry point of `mllm-eval`."""
    from mllm_eval.cli.app import app

    app(prog_name="mllm-eval")
