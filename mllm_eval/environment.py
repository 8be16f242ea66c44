"""Describe hardware and software for manifests, and make results reproducible by settings."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from mllm_eval import process
from mllm_eval.errors import UserError
from mllm_eval.storage import PACKAGE

# The NVIDIA driver's list of GPUs, and the folder with the devices that a process may use.
DRIVER = Path("/proc/driver/nvidia/gpus")
DEVICES = Path("/dev")


def describe() -> dict[str, Any]:
    """Return time, Python version, platform, CPU, threads, GPUs, git state and packages as plain data."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "threads": threads(),
        "gpus": gpus(),
        "git": git_state(),
        "packages": dict(installed_packages()),
    }


@cache
def installed_packages() -> dict[str, str]:
    """Return name -> version of the installed packages; read once per process, as it takes a tenth of a second."""
    packages = {dist.metadata["Name"]: dist.version for dist in metadata.distributions()}
    return dict(sorted(packages.items(), key=lambda item: item[0].lower()))


def threads() -> int:
    """Return the number of torch's threads: $OMP_NUM_THREADS, else the number of cores this process may use."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) > 0 else len(os.sched_getaffinity(0))


def cores() -> int:
    """Return the number of cores for this process: its share among the launcher's processes on this machine.

    Cores that Slurm assigns to a task are not divided again.
    """
    here = len(os.sched_getaffinity(0))
    own = os.environ.get("SLURM_CPUS_PER_TASK", "")
    # If a launcher runs several processes within one Slurm task, they must share the task's cores.
    if own.isdigit() and os.environ.get("SLURM_NTASKS") == os.environ.get("WORLD_SIZE"):
        return max(1, min(here, int(own)))
    return max(1, here // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def gpus() -> list[str]:
    """Return the names of the GPUs that this process may use, found without torch; empty if there are none."""
    listed = _listed_gpus() or _driver_gpus()
    return [listed[at][1] for at in _visible([key for key, _ in listed], os.environ.get("CUDA_VISIBLE_DEVICES"))]


def _listed_gpus() -> list[tuple[str, str]]:
    """Return (UUID, name) of each GPU by nvidia-smi."""
    if not (command := shutil.which("nvidia-smi")):
        return []
    listed = subprocess.run(
        [command, "--query-gpu=uuid,name", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    if listed.returncode:
        return []
    parts = [line.partition(",") for line in listed.stdout.splitlines() if line.strip()]
    return [(key.strip(), name.strip()) for key, _, name in parts]


def _driver_gpus() -> list[tuple[str, str]]:
    """Return (UUID, name) of each GPU by the driver's files, as many containers have no nvidia-smi."""
    listed: list[tuple[str, str]] = []
    for path in sorted(DRIVER.glob("*/information")):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        # A container sees the driver's list of all GPUs, but only its own devices.
        if (DEVICES / f"nvidia{said.get('Device Minor', '')}").exists():
            listed.append((said.get("GPU UUID", ""), said.get("Model", "NVIDIA GPU")))
    return listed


def _visible(keys: Sequence[str], said: str | None) -> list[int]:
    """Return the indices of GPUs that are visible if CUDA_VISIBLE_DEVICES is `said`: indices or UUID prefixes.

    As in CUDA, the first invalid entry ends the list. A part of a GPU (MIG-...) is resolved only on machines with a
    single GPU.
    """
    if said is None:
        return list(range(len(keys)))
    places: list[int] = []
    for entry in (part.strip() for part in said.split(",")):
        if entry.isascii() and entry.isdigit() and int(entry) < len(keys):
            at = [int(entry)]
        elif entry.startswith("MIG-"):
            at = [0] if len(keys) == 1 else []
        else:
            at = [place for place, key in enumerate(keys) if entry and key.startswith(entry)]
        if len(at) != 1 or at[0] in places:
            break
        places += at
    return places


def git_state() -> dict[str, Any] | None:
    """Return the commit of the checkout this package runs from, and its changed files; None if it is installed."""
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


@contextmanager
def settings() -> Iterator[None]:
    """Context with this project's settings (no network, quiet libraries), which restores the process on exit.

    Every public function that computes uses it as a decorator.
    """
    with process.unchanged():
        before_torch()
        process.go_offline()
        # In a notebook without ipywidgets, tqdm warns when transformers is imported.
        warnings.filterwarnings("ignore", message="IProgress not found")
        yield


def before_torch() -> None:
    """Set environment variables that torch and transformers read on import: offline, quiet, reproducible.

    Variables that the user has set are kept. `settings` restores the environment.
    """
    if not gpus() and not Path("/dev/kfd").exists():
        # Otherwise accelerate's check for deepspeed prints a warning and searches for a GPU.
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
        # cuBLAS is deterministic only with a workspace configured like this.
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        # oneDNN caches kernels for 1,024 shapes, and nearly every batch has a new one: hundreds of megabytes.
        "LRU_CACHE_CAPACITY": "32",
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32",
    }
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    # If transformers is imported already, it has read the variables before this change.
    process.go_quiet()


def device() -> str:
    """Return the device for models: this process's GPU as `cuda:<index>`, else `cpu`. Imports torch.

    The index is explicit because in a new thread plain `cuda` means the first GPU.
    """
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


def repeatable(seed: int, strictly: bool = False) -> None:
    """Seed Python, numpy and torch, enable torch's deterministic algorithms, and set its number of threads.

    Operations without a deterministic algorithm run nondeterministically; with `strictly` they raise RuntimeError.
    `settings` restores all of this.
    """
    before_torch()
    import random

    import numpy.random
    import torch

    process.note()
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.set_num_threads(threads())
    torch.use_deterministic_algorithms(True, warn_only=not strictly)
    # In deterministic mode torch also fills new memory with NaN, to expose reads of uninitialised memory. It has no
    # other use, and took a sixth of a training step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    warnings.filterwarnings("ignore", message=".*deterministic.*", category=UserWarning)


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def parse_bytes(text: str, variable: str) -> int:
    """Return the bytes of a size like `200GB`, `1.5T`, `500e9` or `0`, with units as powers of 1000.

    Raises UserError, naming `variable`, for another form.
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?(?:e\d+)?)\s*([KMGT]?)B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise UserError(f"{variable}={text!r}: write a size such as 200GB or 1.5TB")
    return int(float(match.group(1)) * _UNITS[match.group(2).upper()])
