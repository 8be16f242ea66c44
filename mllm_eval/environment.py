"""The machine and the software a result was made with, and the settings that make it repeatable."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import warnings
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from mllm_eval.storage import PACKAGE


def describe() -> dict[str, Any]:
    """Time, python, packages, git state, processor, threads and GPUs, as plain data for a manifest."""
    packages = {dist.metadata["Name"]: dist.version for dist in metadata.distributions()}
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "threads": threads(),
        "gpus": gpus(),
        "git": git_state(),
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def threads() -> int:
    """Threads that torch computes with: $OMP_NUM_THREADS, else the cores this process may use."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) > 0 else len(os.sched_getaffinity(0))


def world() -> tuple[int, int]:
    """Rank of this process and number of processes, as a launcher's environment says; (0, 1) without one."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def gpus() -> list[str]:
    """Names of the GPUs, found without torch; empty without any."""
    if not (command := shutil.which("nvidia-smi")):
        return []
    listed = subprocess.run(
        [command, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return [line.strip() for line in listed.stdout.splitlines() if line.strip()] if not listed.returncode else []


def git_state() -> dict[str, Any] | None:
    """Commit of the checkout this package runs from and whether files differ from it; None when installed."""
    top = PACKAGE.parent
    if not (top / ".git").exists() or not shutil.which("git"):
        return None
    commit = _git(top, "rev-parse", "HEAD")
    changed = _git(top, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "changed": sorted(line[3:] for line in (changed or "").splitlines())}


def _git(top: Path, *words: str) -> str | None:
    done = subprocess.run(["git", "-C", str(top), *words], capture_output=True, text=True, check=False)
    return done.stdout.rstrip() if not done.returncode else None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def before_torch() -> None:
    """Set what must be set before torch and transformers are imported: offline, quiet, repeatable.

    Values the user has set in the environment stay.
    """
    if not gpus() and not Path("/dev/kfd").exists():
        # Without it accelerate's probe of deepspeed prints a warning and looks for a GPU.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    quiet = {
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "DS_LOG_LEVEL": "error",
        # cuBLAS is repeatable only with a workspace of this form.
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        # oneDNN keeps what it has prepared for 1,024 shapes, and nearly every batch has another: hundreds of megabytes.
        "LRU_CACHE_CAPACITY": "32",
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32",
    }
    for name, value in quiet.items():
        os.environ.setdefault(name, value)


def device() -> str:
    """Where models go: the GPU if there is one. Imports torch."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def repeatable(seed: int) -> None:
    """Seed python, numpy and torch, ask torch for deterministic algorithms and fix its threads."""
    before_torch()
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.set_num_threads(threads())
    torch.use_deterministic_algorithms(True, warn_only=True)
    warnings.filterwarnings("ignore", message=".*deterministic.*", category=UserWarning)
