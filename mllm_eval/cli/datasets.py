"""`mllm-eval data`: data made, fetched, checked and locked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def provide(names: Sequence[str], recipe: str | None, pin: str | None, folder: Path | None, offline: bool) -> None:
    """Data of a recipe; or, where benchmarks, a pin or a folder are named, data of benchmarks (pin `hub`)."""
    from mllm_eval import pipeline
    from mllm_eval.cli.display import display
    from mllm_eval.errors import UserError
    from mllm_eval.storage import data_home

    asked = [part.strip() for name in names for part in name.split(",") if part.strip()]
    if asked or pin or folder or offline:
        if recipe is not None:
            raise UserError("--recipe goes without benchmarks, --data, --from and --offline: it names its own data")
        made = pipeline.provide_benchmarks(asked or None, pin or "hub", folder, offline, display())
    else:
        made = pipeline.provide_data(recipe or "mini", display())
    print(f"{data_home()}: {'made' if made else 'complete, nothing to do'}")
