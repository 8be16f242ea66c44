"""Ends a command that fails or is stopped with one line on stderr and an exit code."""

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
    """Whether this process prints the error. If several processes meet the same error, only one prints it."""
    from mllm_eval.distributed import tells

    return tells(error)


def _fails(error: Exception) -> None:
    """Tell the other processes of a launcher why this one ends, unless they all met the same error."""
    from mllm_eval.distributed import SharedError, alive

    if not isinstance(error, SharedError):
        alive.failed(str(error) or type(error).__name__)


class Terminated(KeyboardInterrupt):
    """SIGTERM was received. It is raised like Ctrl-C, so that unfinished files are removed."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Make SIGTERM raise `Terminated` inside the `with` block.

    Does nothing outside the main thread or if SIGTERM has a handler already. Among several processes SIGTERM keeps its
    default, which ends the process at once: it may be waiting for the others in a call that no exception interrupts.
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
        """Find a command, also one whose name is two words, such as `check gpu`, next to `check`."""
        if (name := " ".join(args[:2])) in self.commands and len(args) > 1:
            args = [name, *args[2:]]
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command, and restore the process's settings afterwards.

        Exit codes: 2 for bad input, 130 after Ctrl-C, 143 after SIGTERM, 0 if the reader of a pipe has closed it.
        """
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
            # An error that no inner function has explained: a failing disk, or a file without read permission.
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
