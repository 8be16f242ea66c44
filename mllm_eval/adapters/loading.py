"""Loads weights into a transformers class, and refuses weights that are incomplete or do not fit.

transformers ignores tensors that its class has no place for, and initialises missing ones at random. Either way the
model is not the one that was trained. All weights are therefore loaded through `load_whole`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from mllm_eval.errors import UserError
from mllm_eval.hub.safetensors_header import elements_in

log = logging.getLogger(__name__)

MOST_LAYERS = 2048
# A config that describes more than this many times the parameters in its files is refused before the model is made.
TIMES = 8
ANEW = "fetch or copy them again, or correct the yaml"


def load_whole(
    load: Callable[..., Any], place: Path, *source: Any, left_out: str | None = "", mend: str = ANEW, **options: Any
) -> Any:
    """Load a model with `from_pretrained` and refuse incomplete weights. No download, no code from the repository.

    Args:
        load: a `from_pretrained`. It is called with `source`, or with `place` if `source` is empty.
        left_out: regular expression of the names of tensors that may be ignored. With None, all unexpected tensors
            are ignored with a warning in the log; for classes that know best what they need.
        mend: advice at the end of an error message.

    Raises:
        UserError: files that cannot be read, and tensors that are missing, have no place in the architecture, or have
            another shape (both shapes are named).
    """
    _hold_size(load, place, options.get("config"), mend)
    try:
        with _without_tables():
            model, report = load(
                *(source or (place,)),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                local_files_only=True,
                trust_remote_code=False,
                **options,
            )
    except UserError:
        raise
    except Exception as problem:
        raise UserError(f"{place}: the weights cannot be read ({first_line(problem)}); {mend}") from problem
    unexpected = report["unexpected_keys"]
    if left_out is None and unexpected:
        log.warning(
            "%s: %d tensors have no place in %s and are not used, the first is %s",
            place,
            len(unexpected),
            type(model).__name__,
            min(unexpected),
        )
        unexpected = set()
    hold_tensors(place, report["mismatched_keys"], unexpected, report["missing_keys"], left_out or "", mend)
    return model


def _hold_size(load: Callable[..., Any], place: Path, config: Any, mend: str) -> None:
    """Raise UserError if the config describes a far larger model than its files hold.

    transformers allocates the whole architecture before it compares tensors. A config that is a thousand times too
    large would therefore exhaust the memory.
    """
    if not place.is_dir() or (held := elements_in(place)) is None:
        return
    with understood(place, "its config makes no model", mend):
        import torch
        from transformers import AutoConfig

        kind = getattr(load, "__self__", None)
        known = config
        if known is None:
            known = AutoConfig.from_pretrained(place, local_files_only=True, trust_remote_code=False)
        hold_layers(known.to_dict(), place)
        with torch.device("meta"):
            make = getattr(kind, "from_config", None) or getattr(kind, "_from_config", None)
            wanted = 0 if make is None else sum(one.numel() for one in make(known).parameters())
    if wanted > TIMES * max(held, 1):
        raise UserError(
            f"{place}: its config describes {wanted:,} parameters, its files hold {held:,}; "
            f"they are of another model, or the config was changed; {mend}"
        )


def hold_layers(config: Any, place: Path, at: str = "") -> None:
    """Raise UserError for a config with more than MOST_LAYERS layers: transformers builds all of them first."""
    for name, value in config.items() if isinstance(config, dict) else ():
        if isinstance(value, dict):
            hold_layers(value, place, f"{at}{name}.")
        elif "layers" in str(name) and isinstance(value, int) and value > MOST_LAYERS:
            raise UserError(f"{place}: `{at}{name}: {value}` are more layers than the {MOST_LAYERS:,} that are read")


@contextmanager
def understood(place: Path, what: str, mend: str = ANEW) -> Iterator[None]:
    """Turn any exception of a library that reads weights, configs or tokenizers into a UserError, `place: what (why)`.

    These parsers raise exceptions of nearly any class on unexpected content. A Rust parser may also panic, and its
    exception does not derive from Exception.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as problem:
        if not isinstance(problem, Exception) and type(problem).__name__ != "PanicException":
            raise
        raise UserError(f"{place}: {what} ({first_line(problem)}); {mend}") from problem


def hold_tensors(
    place: Path,
    reshaped: Collection[tuple[str, Sequence[int], Sequence[int]]],
    unexpected: Collection[str],
    missing: Collection[str],
    left_out: str = "",
    mend: str = ANEW,
) -> None:
    """Raise UserError unless a file's tensors are exactly those of the architecture.

    reshaped: name, shape in the file, shape in the architecture. left_out, mend: as for `load_whole`.
    """
    for name, given, wanted in sorted(reshaped):
        more = f"{len(reshaped)} tensors have another shape, the first is " if len(reshaped) > 1 else ""
        raise UserError(
            f"{place}: {more}{name}: {tuple(given)} in the file, {tuple(wanted)} by config and yaml; "
            f"they are of another model, or the config was changed; {mend}"
        )
    told = []
    if absent := sorted(missing):
        told.append(f"{len(absent)} tensors are missing, the first is {absent[0]}")
    if strange := sorted(name for name in unexpected if not (left_out and re.fullmatch(left_out, name))):
        told.append(f"{len(strange)} tensors have no place in the architecture, the first is {strange[0]}")
    if told:
        raise UserError(f"{place}: {'; '.join(told)}: cut short, or of another architecture; {mend}")


def reshaped(given: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """List the tensors whose shapes differ between two mappings: name, shape in `given`, shape in `wanted`."""
    shared = [name for name in given if name in wanted]
    both = [(name, tuple(given[name].shape), tuple(wanted[name].shape)) for name in shared]
    return [one for one in both if one[1] != one[2]]


def first_line(problem: BaseException) -> str:
    """The message of an exception in one line, or its class name if it has none."""
    text = str(problem).strip()
    first = text.splitlines()[0].strip() if text else type(problem).__name__
    if "above report" in text:
        # transformers has logged a table of the tensors that it could not convert.
        return "its tensors are not those that this architecture is made of"
    return f"{type(problem).__name__} {first}" if isinstance(problem, KeyError) else first


@contextmanager
def _without_tables() -> Iterator[None]:
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
