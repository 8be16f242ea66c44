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

log = logging.getLogger(__name__)

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
    for name, found, wanted in sorted(reshaped):
        more = f"{len(reshaped)} tensors have another shape, the first is " if len(reshaped) > 1 else ""
        raise UserError(
            f"{place}: {more}{name}: {tuple(found)} in the file, {tuple(wanted)} by config and yaml; "
            f"they are of another model, or the config was changed; {mend}"
        )
    told = []
    if absent := sorted(missing):
        told.append(f"{len(absent)} tensors are missing, the first is {absent[0]}")
    if strange := sorted(name for name in unexpected if not (left_out and re.fullmatch(left_out, name))):
        told.append(f"{len(strange)} tensors have no place in the architecture, the first is {strange[0]}")
    if told:
        raise UserError(f"{place}: {'; '.join(told)}: cut short, or of another architecture; {mend}")


def reshaped(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Of tensors by name, those whose shapes differ: name, shape in `found`, shape in `wanted`."""
    shared = [name for name in found if name in wanted]
    both = [(name, tuple(found[name].shape), tuple(wanted[name].shape)) for name in shared]
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
