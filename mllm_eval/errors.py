"""Errors that the user can correct, each reported in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Integral
from pathlib import Path
from types import TracebackType

from mllm_eval import escaping


class UserError(Exception):
    """Bad input, with a message of one line that names the file, the row, the fault and the correction.

    The command line prints it without a traceback and exits with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(escaping.line(message))


def origin(error: BaseException, folder: Path) -> str:
    """Return `file:line: ` of an error in user code: its innermost frame in `folder`, or the place of a syntax error.

    Returns "" if no frame lies in the folder.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: "
    place, step = "", error.__traceback__
    while step is not None:
        if Path(step.tb_frame.f_code.co_filename).is_relative_to(folder):
            place = _place(step)
        step = step.tb_next
    return place


def _place(step: TracebackType) -> str:
    return f"{step.tb_frame.f_code.co_filename}:{step.tb_lineno}: "


def exception_words(error: BaseException) -> str:
    """Return an exception as text: its type, and its message if it has one."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def fault(error: BaseException, said: str, *folders: Path, otherwise: str = "") -> UserError:
    """Return a UserError for an exception in user code: its place in one of `folders`, what failed (`said`), and why.

    The folders are tried in order; `otherwise` replaces the place if no frame lies in any of them.
    """
    where = next(filter(None, (origin(error, folder) for folder in folders)), otherwise)
    return UserError(f"{where}{said} ({exception_words(error)})")


def is_whole(value: object) -> bool:
    """Return whether a value is a whole number, numpy's included; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def near(name: str, known: Iterable[str]) -> str:
    """Return a hint at the known name closest to a mistyped one, `" Did you mean 'x'?"`, or `""` if none is close."""
    options = sorted(known)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    if not close:
        lowered = {option.lower(): option for option in options}
        close = [lowered[n] for n in difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)]
    return f" Did you mean {close[0]!r}?" if close else ""
