"""Cambrian-style VQA evaluation of frozen vision encoders.

>>> import mllm_eval
>>> encoder = mllm_eval.load_encoder("mini-dino")
>>> encoder.encode(["picture.png"]).shape
torch.Size([1, 64, 128])
>>> mllm_eval.compare(["mini-dino", "mini-random"], blind=True).differences

Each name is imported at its first use, so that `import mllm_eval` itself costs nothing. No call changes settings of
the process permanently. docs/python.md describes all functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mllm_eval.autoclasses import register_when_asked

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mllm_eval.alignment.measure import align
    from mllm_eval.catalog import names
    from mllm_eval.errors import UserError
    from mllm_eval.library.compared import Comparison, compare
    from mllm_eval.library.evaluation import Results, evaluate, external_model
    from mllm_eval.library.frozen import LoadedEncoder, load_encoder
    from mllm_eval.pipeline import probe, score_run, train_run
    from mllm_eval.pipeline.leakflow import check_leaks
    from mllm_eval.report.render import render, write_tables
    from mllm_eval.run import Run
    from mllm_eval.saved import saved_run, saved_runs
    from mllm_eval.score.frames import ScoredPredictions, sample_frame, score

# `train` is missing, as it is a subpackage; `score` is a subpackage, too, but its module can be called.
_HOMES = {
    "Comparison": "library.compared",
    "LoadedEncoder": "library.frozen",
    "Results": "library.evaluation",
    "Run": "run",
    "ScoredPredictions": "score.frames",
    "UserError": "errors",
    "align": "alignment.measure",
    "check_leaks": "pipeline.leakflow",
    "compare": "library.compared",
    "evaluate": "library.evaluation",
    "external_model": "library.evaluation",
    "load_encoder": "library.frozen",
    "names": "catalog",
    "probe": "pipeline",
    "render": "report.render",
    "sample_frame": "score.frames",
    "saved_run": "saved",
    "saved_runs": "saved",
    "score": "score",
    "score_run": "pipeline",
    "train_run": "pipeline",
    "write_tables": "report.render",
}

__all__ = [
    "Comparison",
    "LoadedEncoder",
    "Results",
    "Run",
    "ScoredPredictions",
    "UserError",
    "align",
    "check_leaks",
    "compare",
    "evaluate",
    "external_model",
    "load_encoder",
    "names",
    "probe",
    "render",
    "sample_frame",
    "saved_run",
    "saved_runs",
    "score",
    "score_run",
    "train_run",
    "write_tables",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    from mllm_eval.environment import settings

    # On import, numpy and other libraries add warning filters and draw random numbers.
    with settings():
        module = import_module(f"{__name__}.{_HOMES[name]}")
    return module if _HOMES[name] == name else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_when_asked()
