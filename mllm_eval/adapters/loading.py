"""Weights into a transformers class: all of them, each in its place and shape, or one line that says which not.

transformers leaves tensors out that its class has no place for, and fills in at random what a file lacks; both make
another function than the one that was trained. Everything here that loads weights loads them through `load_whole`.
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
# How many times more than its files hold a config may say before it is refused without being made.
TIMES = 8
ANEW = "fetch or copy them again, or correct the yaml"


def load_whole(
    load: Callable[..., Any], place: Path, *source: Any, left_out: str | None = "", mend: str = ANEW, **options: Any
) -> Any:
    """What `from_pretrained` makes of a place, if that is the whole of it; nothing is fetched, no foreign code is run.

    Args:
        load: a `from_pretrained`; it is called with `source`, or with the place where nothing else is given.
        left_out: regular expression of whole names of tensors that are left out on purpose; with None a line of the
            log says which were, where the class alone knows what it needs.
        mend: what to do about weights that are not whole.

    Raises:
        UserError: files that cannot be read, and tensors of another shape (both are named), without a place in the
            architecture, or missing.
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
    """Raise UserError where the architecture of a config is far larger than what the files hold.

    Memory is taken for the whole architecture before a tensor is compared; a config that says a thousand times more
    than its files have would take a machine's.
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
    """Raise UserError for a config of more layers than any model has: each is made before it is compared."""
    for name, value in config.items() if isinstance(config, dict) else ():
        if isinstance(value, dict):
            hold_layers(value, place, f"{at}{name}.")
        elif "layers" in str(name) and isinstance(value, int) and value > MOST_LAYERS:
            raise UserError(f"{place}: `{at}{name}: {value}` are more layers than the {MOST_LAYERS:,} that are read")


@contextmanager
def understood(place: Path, what: str, mend: str = ANEW) -> Iterator[None]:
    """Turns what a library raises on files of weights, configs and tokenizers into a UserError: `place: what (why)`.

    Their parsers raise nearly anything on a file that says something else than they expect, and one in Rust may panic,
    which is no Exception.
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
    """Raise UserError unless a file's tensors were those of the architecture.

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
    """Of tensors by name, those whose shapes differ: name, shape in `given`, shape in `wanted`."""
    shared = [name for name in given if name in wanted]
    both = [(name, tuple(given[name].shape), tuple(wanted[name].shape)) for name in shared]
    return [one for one in both if one[1] != one[2]]


def first_line(problem: BaseException) -> str:
    """What an exception says, in one line."""
    text = str(problem).strip()
    first = text.splitlines()[0].strip() if text else type(problem).__name__
    if "above report" in text:
        # transformers has printed a table of what it could not convert.
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
