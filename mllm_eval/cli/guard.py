"""What the user sees when something ends early: one line and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from mllm_eval.console import say
from mllm_eval.errors import UserError
from mllm_eval.process import unchanged


def _tells(error: UserError) -> bool:
    """Whether this process is the one of several that prints what all of them met."""
    from mllm_eval.distributed import tells

    return tells(error)


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
            with unchanged():
                return super().invoke(ctx)
        except UserError as error:
            if _tells(error):
                say(f"mllm-eval: {error}", file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            say("\nmllm-eval: stopped; the same command goes on from here", file=sys.stderr)
            raise typer.Exit(130) from None
        except BrokenPipeError:
            # Python would complain again when it flushes stdout at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
