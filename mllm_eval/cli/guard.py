"""What the user sees when something ends early: one line and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from mllm_eval.console import say
from mllm_eval.disk import MENDS, NotWritten
from mllm_eval.errors import UserError
from mllm_eval.process import unchanged


def _tells(error: UserError) -> bool:
    """Whether this process is the one of several that prints what all of them met."""
    from mllm_eval.distributed import tells

    return tells(error)


def _fails(error: Exception) -> None:
    """Tell the other processes, where a launcher has started any, why this one ends, unless all know it."""
    from mllm_eval.distributed import SharedError, alive

    if not isinstance(error, SharedError):
        alive.failed(str(error) or type(error).__name__)


class Terminated(KeyboardInterrupt):
    """SIGTERM came; what is half-written is cleared away on the way out, as after Ctrl-C."""


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends what is done in the `with` block as Ctrl-C does.

    Only where nobody else deals with it. One of several processes ends at once, for it may be waiting for the others in
    a call that no exception reaches.
    """
    from mllm_eval.distributed.ranks import several

    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated

    main = threading.current_thread() is threading.main_thread()
    if several() or not main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Guarded(TyperGroup):
    """A group of commands that turns bad input into one line and exit code 2."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """A command may have a name of two words, where the first is a command of its own: `check gpu`."""
        if (name := " ".join(args[:2])) in self.commands and len(args) > 1:
            args = [name, *args[2:]]
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; the process is as it was behind it. Ctrl-C exits with 130, a reader who has gone with 0."""
        try:
            with unchanged(), _terminable():
                return super().invoke(ctx)
        except UserError as error:
            raise self._told(error) from None
        except Terminated:
            say("mllm-eval: stopped by SIGTERM; the same command goes on from here", file=sys.stderr)
            raise typer.Exit(128 + signal.SIGTERM) from None
        except KeyboardInterrupt:
            say("\nmllm-eval: stopped; the same command goes on from here", file=sys.stderr)
            raise typer.Exit(130) from None
        except BrokenPipeError:
            # Python would complain again when it flushes stdout at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except OSError as error:
            # What no one nearer to it has put in words: a disk that fails, a file that may not be read.
            if error.errno not in MENDS:
                _fails(error)
                raise
            raise self._told(NotWritten.of(Path(str(error.filename or "a file")), error)) from error

        except Exception as error:
            _fails(error)
            raise

    @staticmethod
    def _told(error: UserError) -> typer.Exit:
        _fails(error)
        if _tells(error):
            say(f"mllm-eval: {error}", file=sys.stderr)
        return typer.Exit(2)
