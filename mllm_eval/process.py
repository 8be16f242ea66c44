"""Restore process-wide settings after a call, including those of the libraries that it uses.

No library is imported for this purpose; a library's settings are read once it has been imported.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

# Libraries that copy environment variables into module globals on import.
KEEPERS = ("huggingface_hub", "transformers", "datasets")
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
SILENT = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_TELEMETRY")
# Loggers whose level an environment variable sets on import, and their default level.
LEVELS = {"transformers": ("TRANSFORMERS_VERBOSITY", logging.WARNING), "DeepSpeed": ("DS_LOG_LEVEL", logging.WARNING)}
# From linux/prctl.h.
PR_SET_PDEATHSIG = 1
_TRUE = {"1", "ON", "YES", "TRUE"}


@dataclass(frozen=True)
class _Part:
    """The state of a module: how to read it, how to write it back, and its value right after import (`fresh`)."""

    module: str
    read: Callable[[Any], Any]
    write: Callable[[Any, Any], None]
    fresh: Any = None


def _read_torch(torch: Any) -> dict[str, Any]:
    on_gpu = torch.cuda.is_initialized()
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "filled": torch.utils.deterministic.fill_uninitialized_memory,
        "cudnn": (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark),
        "threads": torch.get_num_threads(),
        "precision": torch.get_float32_matmul_precision(),
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "drawn": torch.get_rng_state(),
        "drawn_on_gpu": torch.cuda.get_rng_state_all() if on_gpu else None,
        "distributed": torch.distributed.is_available() and torch.distributed.is_initialized(),
    }


def _write_torch(torch: Any, before: dict[str, Any]) -> None:
    torch.use_deterministic_algorithms(before["deterministic"], warn_only=before["warn_only"])
    torch.utils.deterministic.fill_uninitialized_memory = before["filled"]
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before["cudnn"]
    if torch.get_num_threads() != before["threads"]:
        torch.set_num_threads(before["threads"])
    torch.set_float32_matmul_precision(before["precision"])
    torch.set_default_dtype(before["dtype"])
    torch.set_grad_enabled(before["gradients"])
    torch.set_rng_state(before["drawn"])
    if before["drawn_on_gpu"] is not None:
        torch.cuda.set_rng_state_all(before["drawn_on_gpu"])
    elif torch.cuda.is_available():
        # CUDA was not initialised before; its random state would then have started from the CPU's seed.
        torch.cuda.manual_seed_all(torch.initial_seed())


_ACCELERATE = ("PartialState", "AcceleratorState", "GradientState")


def _read_accelerate(state: Any) -> dict[str, dict[str, Any]]:
    return {name: dict(getattr(state, name)._shared_state) for name in _ACCELERATE}


def _write_accelerate(state: Any, before: dict[str, dict[str, Any]]) -> None:
    # Otherwise a Trainer's precision and devices would apply to every Accelerator that the user creates later.
    for name, held in before.items():
        shared = getattr(state, name)._shared_state
        shared.clear()
        shared.update(held)


PARTS = (
    _Part("random", lambda random: random.getstate(), lambda random, before: random.setstate(before)),
    _Part("numpy.random", lambda random: random.get_state(), lambda random, before: random.set_state(before)),
    _Part("torch", _read_torch, _write_torch),
    _Part("accelerate.state", _read_accelerate, _write_accelerate, {name: {} for name in _ACCELERATE}),
)


@dataclass
class _Before:
    """The settings of the process when the outermost context was entered."""

    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    levels: dict[str, int] = field(default_factory=lambda: {name: one.level for name, one in _loggers().items()})
    disabled: int = field(default_factory=lambda: logging.root.manager.disable)
    kept: dict[tuple[str, str], Any] = field(default_factory=lambda: {key: vars(one)[key[1]] for key, one in _kept()})
    bars: bool | None = field(default_factory=lambda: _bars())
    parts: dict[str, Any] = field(default_factory=dict)

    def note(self) -> None:
        """Read the state of modules that were imported since, before this project changes them."""
        for part in PARTS:
            module = sys.modules.get(part.module)
            if part.module not in self.parts and module is not None:
                # A module whose import is still in progress may lack the attributes.
                with suppress(AttributeError):
                    self.parts[part.module] = part.read(module)

    def restore(self) -> None:
        """Restore all settings."""
        alone = "WORLD_SIZE" not in self.environment
        for name in set(os.environ) - set(self.environment):
            del os.environ[name]
        for name, value in self.environment.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
        self._restore_logging()
        self._restore_kept()
        _end_group(alone and not self.parts.get("torch", {}).get("distributed"))
        for part in PARTS:
            before = self.parts.get(part.module, part.fresh)
            if part.module in sys.modules and before is not None:
                part.write(sys.modules[part.module], before)

    def _restore_logging(self) -> None:
        logging.disable(self.disabled)
        for name, logger in _loggers().items():
            if name in self.levels:
                if logger.level != self.levels[name]:
                    logger.setLevel(self.levels[name])
            elif name in LEVELS and LEVELS[name][0] not in self.environment:
                # The library was imported inside the context.
                logger.setLevel(LEVELS[name][1])

    def _restore_kept(self) -> None:
        for key, module in _kept():
            before = self.kept[key] if key in self.kept else _said(key[1])
            if vars(module)[key[1]] != before:
                setattr(module, key[1], before)
        if (shown := _bars()) is not None:
            before_bars = self.bars if self.bars is not None else not _said(SILENT[0])
            if shown != before_bars:
                _show_bars(before_bars)


def _loggers() -> dict[str, logging.Logger]:
    known = list(logging.root.manager.loggerDict.items())
    return {"root": logging.root, **{name: one for name, one in known if isinstance(one, logging.Logger)}}


def _kept() -> list[tuple[tuple[str, str], ModuleType]]:
    """Return ((module name, variable), module) for each global in which a library stores an environment variable."""
    loaded = [(name, one) for name, one in list(sys.modules.items()) if name.partition(".")[0] in KEEPERS]
    return [
        ((name, variable), one)
        for name, one in loaded
        for variable in (*OFFLINE, *SILENT)
        if isinstance(one, ModuleType) and variable in vars(one)
    ]


def _said(variable: str) -> bool | None:
    """Return the value that a library imported now would store for an environment variable."""
    given = os.environ.get(variable)
    if variable in OFFLINE:
        given = given or os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE")
    if variable == "HF_HUB_DISABLE_PROGRESS_BARS" and given is None:
        return None
    return (given or "").upper() in _TRUE


def _bars() -> bool | None:
    """Whether transformers shows progress bars; None if it is not imported."""
    transformers_logging = sys.modules.get("transformers.utils.logging")
    return None if transformers_logging is None else bool(transformers_logging.is_progress_bar_enabled())


def _show_bars(shown: bool) -> None:
    transformers_logging: Any = sys.modules["transformers.utils.logging"]
    silent = {key: vars(one)[key[1]] for key, one in _kept() if key[1] == SILENT[0]}
    for name, variable in silent:
        # If the environment sets the variable, huggingface_hub warns about a contrary request and ignores it.
        setattr(sys.modules[name], variable, None)
    (transformers_logging.enable_progress_bar if shown else transformers_logging.disable_progress_bar)()
    for key, value in silent.items():
        setattr(sys.modules[key[0]], key[1], value)


def _end_group(own: bool) -> None:
    """Destroy torch's process group if this process created it for itself alone.

    torch is called directly, because `mllm_eval.distributed` is on a higher floor than this module.
    """
    torch: Any = sys.modules.get("torch")
    if own and torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


_lock = threading.Lock()
_depth = 0
_before: _Before | None = None


def note() -> None:
    """Record the state of modules imported since `unchanged` was entered; call it before changing them."""
    if _before is not None:
        _before.note()


def go_offline() -> None:
    """Apply the environment variables that forbid network access to libraries that are imported already."""
    for key, module in _kept():
        if key[1] in OFFLINE and os.environ.get(key[1]):
            setattr(module, key[1], _said(key[1]))


def go_quiet() -> None:
    """Turn off progress bars of an already imported transformers, if the environment says so."""
    if _bars() and _said(SILENT[0]):
        _show_bars(False)


@contextmanager
def unchanged() -> Iterator[None]:
    """Context that restores the process's settings on exit, also after an error.

    Restored are: environment variables; random states of Python, numpy and torch; torch's deterministic mode, threads,
    precision and default dtype; warning filters; logger levels; whether Hugging Face's libraries may use the network
    and show progress bars; and accelerate's state. Of nested contexts only the outermost restores, of those in several
    threads only the last one to exit.
    """
    global _depth, _before
    with _lock:
        _depth += 1
        if _depth == 1:
            _before = _Before()
            _before.note()
    try:
        with warnings.catch_warnings():
            yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                assert _before is not None
                before, _before = _before, None
                before.restore()


def end_with_parent() -> None:
    """Make this forked process end when its parent ends, however that happens (on Linux; elsewhere a no-op).

    Otherwise a child that waits for work would wait forever after its parent was killed.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
