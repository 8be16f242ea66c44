"""What a user did wrong, in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from mllm_eval import escaping


class UserError(Exception):
    """Bad input: one line that names the file, the row, what is wrong and how to mend it.

    The command line prints it without a traceback and exits with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(escaping.line(message))


def origin(error: BaseException, folder: Path) -> str:
    """`file:line: ` where code of somebody's own failed: the innermost frame in a folder, or the place that an error
    of syntax names; `""` where no frame lies there."""
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
    """An exception in a line: its type, and its text if it has any."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def fault(error: BaseException, said: str, *folders: Path, otherwise: str = "") -> UserError:
    """A line on an exception of somebody's own code: where it failed in one of `folders`, what failed, and why.

    The folders are tried in turn; `otherwise` stands in place of file and line where no frame lies in any.
    """
    where = next(filter(None, (origin(error, folder) for folder in folders)), otherwise)
    return UserError(f"{where}{said} ({exception_words(error)})")


def near(name: str, known: Iterable[str]) -> str:
    """A hint at the known name closest to a mistyped one, `" Did you mean 'x'?"`, or `""` if none is."""
    options = sorted(known)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    if not close:
        lowered = {option.lower(): option for option in options}
        close = [lowered[n] for n in difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)]
    return f" Did you mean {close[0]!r}?" if close else ""
