"""Progress on stderr: a bar with the time left in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from mllm_eval.console import say
from mllm_eval.pipeline.reporter import Reporter
from mllm_eval.progress import Progress

EVERY_SECONDS = 20.0
# The time left is told by the pace of so many lines: what is done changes, images are encoded before steps are trained.
PACE_LINES = 15


def listener(progress: bool | Reporter = True) -> Reporter | None:
    """Who is told: the display that fits stderr, nobody, or the one that is given."""
    if isinstance(progress, bool):
        return (Bars() if sys.stderr.isatty() else Lines()) if progress else None
    return progress


class Lines:
    """One line a step when it ends, and now and then one while it goes on."""

    def say(self, text: str) -> None:
        """One line on stderr."""
        say(text, file=sys.stderr, flush=True)

    @contextmanager
    def step(self, title: str) -> Iterator[Progress]:
        """Tell when the step ended and how long it took; of a long one, how far it is."""
        start = told = time.monotonic()
        marks: deque[tuple[float, int]] = deque(maxlen=PACE_LINES)

        def progress(done: int, total: int) -> None:
            nonlocal told
            now = time.monotonic()
            # What was done by an earlier run says nothing about speed, and what was done long ago little.
            if not marks:
                marks.append((now, done))
            began, before = marks[0]
            if now - told >= EVERY_SECONDS and before < done < total:
                told = now
                marks.append((now, done))
                left = (now - began) * (total - done) / (done - before)
                self.say(f"  {title}: {100 * done / total:.0f} %, about {spoken(left)} left")

        yield progress
        self.say(f"{title:<34} {spoken(time.monotonic() - start):>8}")


class Bars:
    """A bar for the step at hand; a line for each that ended."""

    def __init__(self) -> None:
        from mllm_eval.console import console as make_console

        self.console = make_console(stderr=True, highlight=False)

    def say(self, text: str) -> None:
        """One line on stderr, as it is."""
        self.console.print(text, markup=False)

    @contextmanager
    def step(self, title: str) -> Iterator[Progress]:
        """A bar that knows how long is left, replaced by one line in the end."""
        from rich.progress import (
            BarColumn,
            SpinnerColumn,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar

        start = time.monotonic()
        parts = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
        )
        with Bar(*parts, console=self.console, transient=True) as bar:
            task = bar.add_task(title, total=None)

            def progress(done: int, total: int) -> None:
                if bar.tasks[0].total is None:
                    # What was done before says nothing about speed.
                    bar.reset(task, completed=done, total=total)
                bar.update(task, completed=done, total=total)

            yield progress
        self.console.print(f"{title:<34} {spoken(time.monotonic() - start):>8}", markup=False)


def spoken(seconds: float) -> str:
    """A time for people: `3.2 s`, `4 min 10 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
