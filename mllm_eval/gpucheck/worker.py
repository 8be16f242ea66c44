"""Train the miniature once, and measure it for the GPU checks. Module `trainings` starts it, alone or under torchrun.

The result is a JSON file: the loss of each step, bytes of tensors that remain in memory after training, the number of
trained parameters, the device, and how often the engine's answers equal the plain loop's.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mllm_eval.distributed import backend, rank, world_size
from mllm_eval.environment import before_torch, device
from mllm_eval.errors import UserError
from mllm_eval.storage import data_home, read_jsonl, write_json

# A wrong scale of attention, whose answers must not be taken for ties.
FAULT = 0.7


def main(words: list[str] | None = None) -> int:
    """Renders the data, trains, and measures. Returns the exit code: 0, or 2 after one line on stderr for bad input."""
    parser = argparse.ArgumentParser(prog="mllm_eval.gpucheck.worker", description=__doc__)
    parser.add_argument("recipe", help="name in configs/recipes, or a yaml file")
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--alignment", type=int, required=True, help="number of training rows of stage 1")
    parser.add_argument("--instruction", type=int, required=True, help="number of training rows of stage 2")
    parser.add_argument("--questions", type=int, default=0, help="per benchmark, answered twice; default: 0, none")
    parser.add_argument(
        "--die", type=int, default=0, help="end like a crash after this step of stage 2; default: 0, no"
    )
    parser.add_argument("--planted", action="store_true", help="with the errors that the checks must find")
    asked = parser.parse_args(words)
    before_torch()
    warnings.filterwarnings("ignore")
    try:
        _work(asked)
    except UserError as problem:
        print(f"UserError: {problem}", file=sys.stderr)
        return 2
    return 0


def _work(asked: Any) -> None:
    from mllm_eval.miniature.build import build
    from mllm_eval.run import Run
    from mllm_eval.train import hold_to_its_data, train

    # One process renders the data; the others wait for its lock.
    build(data_home(), None, asked.alignment, asked.instruction)
    run = Run.of("mini-dino", asked.recipe)
    if rank() == 0:
        run.prepare()
        hold_to_its_data(run)
    with ExitStack() as around:
        if asked.planted:
            around.enter_context(planted())
        if asked.die:
            around.enter_context(dying(asked.die))
        train(run)
    gc.collect()
    if rank():
        return
    logs = {stage: read_jsonl(run.stage_dir(stage) / "log.jsonl") for stage in (1, 2)}
    measured: dict[str, Any] = {
        "losses": {f"stage{stage}": [line["loss"] for line in log] for stage, log in logs.items()},
        "steps": {f"stage{stage}": [line["step"] for line in log] for stage, log in logs.items()},
        "held": held_bytes(),
        "trained": trained_parameters(run),
        "device": device(),
        "processes": world_size(),
        "backend": backend(),
    }
    if asked.questions:
        # The planted fault swaps the two: the engine is wrong where it should be right, and right with the fault.
        scales = {"engine": 1.0, "fault": FAULT}
        if asked.planted:
            scales = {"engine": FAULT, "fault": 1.0}
        measured["answers"] = {name: answers(run, asked.questions, scale) for name, scale in scales.items()}
    write_json(asked.out, measured)


@contextmanager
def planted() -> Iterator[None]:
    """Increases the loss, and skips the release of memory at the end of a training."""
    from mllm_eval.train.trainer import StageTrainer

    with larger_loss(), patch.object(StageTrainer, "release", lambda *_: None):
        yield


@contextmanager
def larger_loss() -> Iterator[None]:
    """Multiplies the loss by 1.1, as if it were divided by too few targets."""
    from mllm_eval.model import VLM

    forward = VLM.forward

    # `wraps` keeps the signature, which the Trainer inspects.
    @wraps(forward)
    def larger(*args: Any, **given: Any) -> Any:
        made: Any = forward(*args, **given)
        if made.loss is not None:
            made.loss = 1.1 * made.loss
        return made

    with patch.object(VLM, "forward", larger):
        yield


@contextmanager
def dying(step: int) -> Iterator[None]:
    """Ends the process without cleanup once this step of stage 2 is in the log, like a crash."""
    from mllm_eval.train.stageprogress import StageLog

    add = StageLog.add

    def add_or_die(log: StageLog, at: int, *rest: Any) -> None:
        add(log, at, *rest)
        if at == step and log.path.parent.name == "stage2":
            os._exit(9)

    with patch.object(StageLog, "add", add_or_die):
        yield


def held_bytes() -> int:
    """The bytes of tensors on the GPU; on a CPU, of all storages that Python's garbage collector knows."""
    import torch

    if torch.cuda.is_available():
        # cuBLAS workspaces of 32 MiB and more belong to torch and not to the training.
        clear: Any = torch._C._cuda_clearCublasWorkspaces
        clear()
        return int(torch.cuda.memory_allocated())
    storages = {}
    for one in gc.get_objects():
        try:
            tensors = [one, getattr(one, "ds_tensor", None)] if isinstance(one, torch.Tensor) else []
        except ReferenceError:
            # A weak proxy whose object no longer exists.
            continue
        for tensor in tensors:
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu":
                storage = tensor.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def trained_parameters(run: Any) -> int:
    """The number of parameters that stage 2 trains: all in the checkpoint except the encoder's."""
    from safetensors import safe_open

    count = 0
    for path in sorted(run.checkpoint.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  # no mapping
                if not name.startswith("encoder."):
                    tensor = file.get_slice(name)
                    size = 1
                    for edge in tensor.get_shape():
                        size *= edge
                    count += size
    return count


def answers(run: Any, questions: int, scale: float) -> dict[str, int]:
    """Compares the engine, with its attention scaled by `scale`, with the plain loop.

    Returns the numbers of questions, of failed ones, and of answers that differ by a tie (`ties`) or by more (`wrong`).
    """
    from mllm_eval.generate import attention
    from mllm_eval.pipeline.recheck import compare_engines

    right = attention.attend_to_both

    def scaled(query: Any, key: Any, value: Any, mask: Any, own: float, *rest: Any) -> Any:
        return right(query, key, value, mask, own * scale, *rest)

    with patch.object(attention, "attend_to_both", scaled):
        agreements = compare_engines(run, questions)
    differences = [one for agreement in agreements.values() for one in agreement.differences]
    return {
        "questions": sum(agreement.questions for agreement in agreements.values()),
        "failed": sum(agreement.failed for agreement in agreements.values()),
        "ties": sum(one.tie for one in differences),
        "wrong": sum(not one.tie for one in differences),
    }


if __name__ == "__main__":
    sys.exit(main())
