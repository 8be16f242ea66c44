"""The process that a call runs in, left as it was: what the call and the libraries under it set is put back.

Nothing is imported here for its own sake. What a library keeps is looked at once that library is there.
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

# Libraries that keep what the environment said when they were imported, in globals of several of their modules.
KEEPERS = ("huggingface_hub", "transformers", "datasets")
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
SILENT = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_TELEMETRY")
# Loggers whose level a variable sets when their library is imported, and the level that they have without it.
LEVELS = {"transformers": ("TRANSFORMERS_VERBOSITY", logging.WARNING), "DeepSpeed": ("DS_LOG_LEVEL", logging.WARNING)}
# Of linux/prctl.h.
PR_SET_PDEATHSIG = 1
_TRUE = {"1", "ON", "YES", "TRUE"}


@dataclass(frozen=True)
class _Part:
    """Something that a module holds: how it is read, how it is set again, and what it is after an import alone."""

    module: str
    read: Callable[[Any], Any]
    write: Callable[[Any, Any], None]
    fresh: Any = None


def _read_torch(torch: Any) -> dict[str, Any]:
    on_gpu = torch.cuda.is_initialized()
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
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
        # The GPU was not begun: its numbers would have started from the CPU's seed.
        torch.cuda.manual_seed_all(torch.initial_seed())


_ACCELERATE = ("PartialState", "AcceleratorState", "GradientState")


def _read_accelerate(state: Any) -> dict[str, dict[str, Any]]:
    return {name: dict(getattr(state, name)._shared_state) for name in _ACCELERATE}


def _write_accelerate(state: Any, before: dict[str, dict[str, Any]]) -> None:
    # A Trainer's precision and devices would be those of every Accelerator that the user makes afterwards.
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
    """What was there when the outermost context was entered."""

    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    levels: dict[str, int] = field(default_factory=lambda: {name: one.level for name, one in _loggers().items()})
    disabled: int = field(default_factory=lambda: logging.root.manager.disable)
    kept: dict[tuple[str, str], Any] = field(default_factory=lambda: {key: vars(one)[key[1]] for key, one in _kept()})
    bars: bool | None = field(default_factory=lambda: _bars())
    parts: dict[str, Any] = field(default_factory=dict)

    def note(self) -> None:
        """Read what was imported since, before anything is set in it."""
        for part in PARTS:
            module = sys.modules.get(part.module)
            if part.module not in self.parts and module is not None:
                # A module that is half imported has nothing to read yet.
                with suppress(AttributeError):
                    self.parts[part.module] = part.read(module)

    def restore(self) -> None:
        """Set everything as it was."""
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
                # Its library was imported within.
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
    """(module, name) of each global in which a library has kept a variable of the environment."""
    loaded = [(name, one) for name, one in list(sys.modules.items()) if name.partition(".")[0] in KEEPERS]
    return [
        ((name, variable), one)
        for name, one in loaded
        for variable in (*OFFLINE, *SILENT)
        if isinstance(one, ModuleType) and variable in vars(one)
    ]


def _said(variable: str) -> bool | None:
    """What a library that is imported now would keep of a variable."""
    given = os.environ.get(variable)
    if variable in OFFLINE:
        given = given or os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE")
    if variable == "HF_HUB_DISABLE_PROGRESS_BARS" and given is None:
        return None
    return (given or "").upper() in _TRUE


def _bars() -> bool | None:
    """Whether transformers shows bars; None where it is not imported."""
    transformers_logging = sys.modules.get("transformers.utils.logging")
    return None if transformers_logging is None else bool(transformers_logging.is_progress_bar_enabled())


def _show_bars(shown: bool) -> None:
    transformers_logging: Any = sys.modules["transformers.utils.logging"]
    silent = {key: vars(one)[key[1]] for key, one in _kept() if key[1] == SILENT[0]}
    for name, variable in silent:
        # Where the environment has said something, huggingface_hub warns of the other instead of doing it.
        setattr(sys.modules[name], variable, None)
    (transformers_logging.enable_progress_bar if shown else transformers_logging.disable_progress_bar)()
    for key, value in silent.items():
        setattr(sys.modules[key[0]], key[1], value)


def _end_group(own: bool) -> None:
    """End the process group that this process made for itself alone."""
    torch: Any = sys.modules.get("torch")
    if own and torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


_lock = threading.Lock()
_depth = 0
_before: _Before | None = None


def note() -> None:
    """Within `unchanged`, look at what was imported since it was entered; to be called before it is set."""
    if _before is not None:
        _before.note()


def go_offline() -> None:
    """Let libraries that are imported already see the variables that forbid the network."""
    for key, module in _kept():
        if key[1] in OFFLINE and os.environ.get(key[1]):
            setattr(module, key[1], _said(key[1]))


def go_quiet() -> None:
    """Let a transformers that is imported already show no bars, where the environment says so."""
    if _bars() and _said(SILENT[0]):
        _show_bars(False)


@contextmanager
def unchanged() -> Iterator[None]:
    """Behind it the process is as it was, also where an error ends it.

    Put back are: the environment's variables; the states of the random numbers of Python, numpy and torch; torch's
    deterministic mode, threads, precision and default dtype; filters of warnings; levels of loggers; whether Hugging
    Face's libraries may use the network and show bars, and what accelerate knows of its process. Contexts within
    change nothing, the outermost one puts back; of several threads the last one does.
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
    """In a process that was forked: let it end when its parent does, however that ends (Linux; elsewhere nothing).

    One that waits for work of a parent that was killed would wait for ever.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
