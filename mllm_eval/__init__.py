"""Cambrian-style VQA evaluation of frozen vision encoders.

>>> from mllm_eval import compare, render, table
>>> runs = compare(["mini-dino", "mini-random"], blind=True)
>>> print(render(table(runs, blind=True)))

What is named here is loaded when it is first used: `import mllm_eval` itself costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mllm_eval.catalog import load_benchmark, load_encoder, load_llm, load_recipe, names
    from mllm_eval.errors import UserError
    from mllm_eval.features.images import encode_images
    from mllm_eval.pipeline import compare, evaluate, probe, score_run, table, train_run
    from mllm_eval.report.render import render, write_tables
    from mllm_eval.run import Run, saved_run, saved_runs
    from mllm_eval.score.frames import sample_frame, score_frame

# Not `train` and `score`: these are rooms of this package.
_HOMES = {
    "Run": "run",
    "UserError": "errors",
    "compare": "pipeline",
    "encode_images": "features.images",
    "evaluate": "pipeline",
    "load_benchmark": "catalog",
    "load_encoder": "catalog",
    "load_llm": "catalog",
    "load_recipe": "catalog",
    "names": "catalog",
    "probe": "pipeline",
    "render": "report.render",
    "sample_frame": "score.frames",
    "saved_run": "run",
    "saved_runs": "run",
    "score_frame": "score.frames",
    "score_run": "pipeline",
    "table": "pipeline",
    "train_run": "pipeline",
    "write_tables": "report.render",
}

__all__ = [
    "Run",
    "UserError",
    "compare",
    "encode_images",
    "evaluate",
    "load_benchmark",
    "load_encoder",
    "load_llm",
    "load_recipe",
    "names",
    "probe",
    "render",
    "sample_frame",
    "saved_run",
    "saved_runs",
    "score_frame",
    "score_run",
    "table",
    "train_run",
    "write_tables",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
