"""Real processes that meet over gloo. They are forked from one that has imported everything, once for all tests."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from mllm_eval.environment import before_torch

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "deepspeed",
        "accelerate",
        "peft",
        "mllm_eval.adapters",
        "mllm_eval.cli.app",
        "mllm_eval.features",
        "mllm_eval.generate.engine",
        "mllm_eval.pipeline",
        "mllm_eval.score",
        "mllm_eval.train.stages",
        "transformers.models.dinov2.modeling_dinov2",
        "transformers.models.llama.modeling_llama",
    ]
)


def run_ranks(
    size: int, folder: Path, work: Callable[..., int], *args: Any, environment: dict[str, str] | None = None
) -> list[int]:
    """`work(*args)` on so many ranks; the exit codes. When one ends badly, so do all, as under a launcher.

    `work` is a function of a test's module, its result an exit code. What rank r prints is in `folder/rank<r>.log`.
    """
    port = free_port()
    common = {
        **os.environ,
        "MLLM_EVAL_RESULTS": str(folder / "results"),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "OMP_NUM_THREADS": "1",
        **(environment or {}),
    }
    ranks = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
    processes = [_start(own, folder / f"rank{rank}.log", work, args) for rank, own in enumerate(ranks)]
    left = list(processes)
    try:
        while left and not any(process.exitcode for process in processes):
            wait([process.sentinel for process in left])
            left = [process for process in processes if process.exitcode is None]
    finally:
        for process in left:
            process.kill()
    for process in processes:
        process.join()
        # What reads images for a rank that was killed would wait for ever.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return [int(process.exitcode or 0) for process in processes]


def run_alone(folder: Path, work: Callable[..., Any], *args: Any) -> int:
    """`work(*args)` in one process with this one's environment; its exit code. What it prints is in alone.log."""
    process = _start(dict(os.environ), folder / "alone.log", work, args)
    process.join()
    return int(process.exitcode or 0)


def _start(
    environment: dict[str, str], output: Path, work: Callable[..., Any], args: tuple[Any, ...]
) -> ForkServerProcess:
    before_torch()
    # The first start makes the process that the others are forked from, with this one's environment.
    before, os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS"), "1"
    process = _CONTEXT.Process(target=_rank, args=(environment, output, work, args))
    process.start()
    if before is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = before
    return process


def free_port() -> int:
    """A port that nobody listens at, for a process that starts later.

    It lies below those that the kernel deals out, which another process may be given before that one has started.
    """
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = secrets.choice(range(10_000, first))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _rank(environment: dict[str, str], output: Path, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.setpgid(0, 0)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.clear()
    os.environ.update(environment)
    sys.exit(work(*args))
