"""The machine and the software a result was made with, and the settings that make it repeatable."""

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
from importlib import metadata
from pathlib import Path
from typing import Any

from mllm_eval import process
from mllm_eval.errors import UserError
from mllm_eval.storage import PACKAGE

# Where the driver tells of its GPUs, and where a process finds those that it may use.
DRIVER = Path("/proc/driver/nvidia/gpus")
DEVICES = Path("/dev")


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


def cores() -> int:
    """Cores of this process: of those that it may use its share among the processes of this machine.

    Slurm gives each of its tasks cores of its own, which are not to be shared out once more.
    """
    here = len(os.sched_getaffinity(0))
    own = os.environ.get("SLURM_CPUS_PER_TASK", "")
    # A launcher that one task has started has its processes share that task's cores.
    if own.isdigit() and os.environ.get("SLURM_NTASKS") == os.environ.get("WORLD_SIZE"):
        return max(1, min(here, int(own)))
    return max(1, here // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def gpus() -> list[str]:
    """Names of the GPUs that this process may use, found without torch; empty without any."""
    listed = _listed_gpus() or _driver_gpus()
    return [listed[at][1] for at in _visible([key for key, _ in listed], os.environ.get("CUDA_VISIBLE_DEVICES"))]


def _listed_gpus() -> list[tuple[str, str]]:
    """Key (such as GPU-1a2b...) and name of each, as nvidia-smi lists them."""
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
    """The same as the driver lists them: many containers have no nvidia-smi."""
    listed: list[tuple[str, str]] = []
    for path in sorted(DRIVER.glob("*/information")):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        # A container sees the driver's whole list, but only the devices that it was given.
        if (DEVICES / f"nvidia{said.get('Device Minor', '')}").exists():
            listed.append((said.get("GPU UUID", ""), said.get("Model", "NVIDIA GPU")))
    return listed


def _visible(keys: Sequence[str], said: str | None) -> list[int]:
    """Which of these GPUs CUDA shows where CUDA_VISIBLE_DEVICES is `said`: numbers, or beginnings of keys.

    As CUDA reads it, the first entry that names none ends the list. A part of a GPU (MIG-...) stands for its GPU
    where there is one alone.
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


@contextmanager
def settings() -> Iterator[None]:
    """Within, this project's settings: no network, quiet libraries, repeatable; behind it the process is as it was.

    Every public function that computes enters it for the length of a call; also a decorator.
    """
    with process.unchanged():
        before_torch()
        process.go_offline()
        # A notebook without its widgets shows no bars, of which tqdm tells when transformers is imported.
        warnings.filterwarnings("ignore", message="IProgress not found")
        yield


def before_torch() -> None:
    """Set what must be set before torch and transformers are imported: offline, quiet, repeatable.

    Values the user has set in the environment stay. `settings` puts all of it back.
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
    # A transformers that was imported before has read it already.
    process.go_quiet()


def device() -> str:
    """Where models go: this process's GPU if there is one. Imports torch.

    It has its number: a thread that was not told which GPU is current takes the first.
    """
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


def repeatable(seed: int, strictly: bool = False) -> None:
    """Seed python, numpy and torch, ask torch for deterministic algorithms and fix its threads; see `settings`.

    Where an operation has no deterministic form torch goes on with the other; `strictly` makes that an error.
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
    # With deterministic algorithms torch also writes NaN into whatever it allocates. That shows who reads memory before
    # it is written, and changes nothing else; it took a sixth of a training step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    warnings.filterwarnings("ignore", message=".*deterministic.*", category=UserWarning)


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def parse_bytes(text: str, variable: str) -> int:
    """Bytes of `200GB`, `1.5T`, `500e9` or `0`; units are powers of 1000. Raises UserError for another form."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?(?:e\d+)?)\s*([KMGT]?)B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise UserError(f"{variable}={text!r}: write a size such as 200GB or 1.5TB")
    return int(float(match.group(1)) * _UNITS[match.group(2).upper()])
