"""`python -m mllm_eval` is `mllm-eval`."""

from __future__ import annotations

from mllm_eval.cli import main

main()
