"""One resumable training loop for all of the miniature's weights.

Invariant: what a step trains on depends on the step's number alone, so a run killed at any moment goes on from its
last checkpoint and ends with the weights of an uninterrupted one (same machine, same number of threads).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

# No two seeds share the random numbers of a step.
SEED_STEP = 1_000_003
Step = Callable[[int], dict[str, torch.Tensor]]


def cosine(step: int, steps: int, warmup: int) -> float:
    """Learning-rate factor: linear warm-up, then cosine to 2 %."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long, how fast, and after how many steps something is saved or reported."""

    steps: int
    lr: float
    warmup: int = 100
    weight_decay: float = 0.05
    save_every: int = 500
    report_every: int = 50
    seed: int = 0


def fit(
    name: str,
    work: Path,
    module: nn.Module,
    step_fn: Step,
    schedule: Schedule,
    *,
    trainable: nn.Module | None = None,
    after: Callable[[int], None] | None = None,
) -> Path:
    """Runs the steps of a schedule by AdamW on `trainable` (default: all of `module`), resuming from `work`.

    `step_fn` gives named scalar losses, of which "loss" is minimised; `after` runs behind each step (an EMA, say).
    Returns the log: one JSON line per `report_every` steps with the means of the losses since the last line.
    """
    steps, lr, report_every = schedule.steps, schedule.lr, schedule.report_every
    work.mkdir(parents=True, exist_ok=True)
    state_file, log_file = work / f"{name}.pt", work / f"{name}.log.jsonl"
    weights = [p for p in (trainable or module).parameters() if p.requires_grad]
    decay = [p for p in weights if p.ndim > 1]
    plain = [p for p in weights if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": schedule.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))
    start = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        start = int(state["step"])
    sums: dict[str, float] = {}
    clock = time.perf_counter()
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * cosine(step, steps, schedule.warmup)
        torch.manual_seed(step + SEED_STEP * schedule.seed)
        losses = step_fn(step)
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if after is not None:
            after(step)
        for key, value in losses.items():
            sums[key] = sums.get(key, 0.0) + float(value.detach())
        if (step + 1) % report_every == 0:
            means = {k: round(v / report_every, 4) for k, v in sums.items()}
            seconds = (time.perf_counter() - clock) / report_every
            line = {"step": step + 1, **means, "seconds_per_step": round(seconds, 4)}
            with log_file.open("a") as out:
                out.write(json.dumps(line) + "\n")
            left = (steps - step - 1) * seconds / 60
            print(f"{name} {step + 1}/{steps} {means} {seconds:.3f} s a step, {left:.0f} min left", flush=True)
            sums, clock = {}, time.perf_counter()
        if (step + 1) % schedule.save_every == 0 or step + 1 == steps:
            temporary = state_file.with_suffix(".tmp")
            torch.save(
                {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1},
                temporary,
            )
            os.replace(temporary, state_file)
    return log_file
