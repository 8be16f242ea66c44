"""Runs all checks in order within a time budget, and writes their results to a file."""

from __future__ import annotations

import gc
import importlib
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mllm_eval.environment import before_torch
from mllm_eval.errors import UserError, near
from mllm_eval.gpucheck.result import Check
from mllm_eval.gpucheck.session import Session
from mllm_eval.gpucheck.trainings import BATCH, PLAIN, ZERO, Training
from mllm_eval.storage import write_json

# On one H200 all eight are planned to take less than eight minutes.
BUDGET = 460.0


@dataclass(frozen=True)
class Kind:
    """A check: its module, and its seconds on an H200 and on two CPU cores, without its trainings."""

    module: str
    cost: float
    dry_cost: float
    trainings: tuple[Training, ...] = ()

    def seconds(self, session: Session) -> float:
        """The expected seconds of the check, without the trainings that an earlier check did."""
        left = [one for one in self.trainings if one.name not in session.trained]
        parts = [(self.cost, self.dry_cost), *((one.cost, one.dry_cost) for one in left)]
        return sum(dry if session.dry else full for full, dry in parts)


# Quick and informative checks come first.
ONE_GPU = {
    "ceilings": Kind("machine", 5, 2),
    "attention": Kind("attention", 5, 2),
    "dtype": Kind("precision", 10, 5),
    "miniature": Kind("miniature", 1, 1, (PLAIN, ZERO)),
    "leftovers": Kind("leftovers", 1, 1, (ZERO,)),
    "generation": Kind("generation", 110, 10),
    "training": Kind("training", 60, 10),
    "stage1": Kind("stage1", 50, 10),
}
SEVERAL_GPUS = {"processes": Kind("processes", 240, 120)}


def chosen(only: Sequence[str], gpus: int) -> dict[str, Kind]:
    """The checks with these names, or all, for one GPU or for several.

    Raises UserError for an unknown name, and for a number of GPUs that does not divide the batch.
    """
    if BATCH % gpus:
        raise UserError(f"gpus {gpus}: they share batches of {BATCH} rows evenly; ask for 1, 2, 4, 8 or 16")
    known = ONE_GPU if gpus == 1 else SEVERAL_GPUS
    for name in only:
        if name not in known:
            raise UserError(f"unknown check {name!r}.{near(name, known)} Known: {', '.join(known)}")
    return {name: kind for name, kind in known.items() if name in only or not only}


def run_checks(
    tell: Callable[[Check], None],
    only: Sequence[str] = (),
    budget: float = BUDGET,
    dry: bool = False,
    planted: bool = False,
    gpus: int = 1,
    to: Path | None = None,
) -> list[Check]:
    """Runs the checks, passes each line to `tell` as it comes, and writes all lines to `to` after each check.

    A check that raises an exception has failed, and the others continue. A check that would exceed the budget is
    reported as skipped.

    Raises UserError for an unknown check, and without `dry` if there are too few GPUs.
    """
    kinds = chosen(only, gpus)
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if dry else {}
    with tempfile.TemporaryDirectory(prefix="mllm-eval-gpu-") as folder, patch.dict(os.environ, hidden):
        before_torch()
        device, name = _device(dry, gpus)
        session = Session(Path(folder), dry, device, name, budget, tell, planted, gpus)
        for group, kind in kinds.items():
            session.group, session.lap = group, time.perf_counter()
            if (cost := kind.seconds(session)) > session.left:
                session.skip(
                    "all of it", f"about {cost:.0f} s, and {max(0.0, session.left):.0f} s are left of {budget:g}"
                )
            else:
                _checked(session, kind)
            if to is not None:
                write_json(to, _report(session, len(kinds)))
    return session.checks


def _checked(session: Session, kind: Kind) -> None:
    try:
        module: Any = importlib.import_module(f"mllm_eval.gpucheck.{kind.module}")
        session.lap = time.perf_counter()
        with warnings.catch_warnings(), module.planted() if session.planted else nullcontext():
            warnings.simplefilter("ignore", FutureWarning)
            module.check(session)
    except Exception as problem:
        lines = str(problem).strip().splitlines() or ["no more was said"]
        session.fail("broke", f"{type(problem).__name__}: {lines[0][:300]}")
    gc.collect()
    session.free()


def _device(dry: bool, gpus: int) -> tuple[str, str]:
    if dry:
        return "cpu", "CPU"
    import torch

    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen < gpus:
        raise UserError(
            f"{gpus} GPU{'s are' if gpus > 1 else ' is'} asked for, torch sees {seen}; run it where there are more, "
            "or with --dry: the same checks at tiny shapes on a CPU"
        )
    return "cuda:0", torch.cuda.get_device_name(0)


def _report(session: Session, asked: int) -> dict[str, Any]:
    states = [one.state for one in session.checks]
    return {
        "device": session.device_name,
        "gpus": session.gpus,
        "dry": session.dry,
        "planted": session.planted,
        "budget": session.budget,
        "seconds": round(time.perf_counter() - session.begun, 1),
        "packages": {name: _version(name) for name in ("torch", "transformers", "accelerate", "deepspeed")},
        "asked": asked,
        "counts": {state: states.count(state) for state in ("PASS", "FAIL", "SKIP", "SEEN")},
        "checks": [one.to_dict() for one in session.checks],
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
