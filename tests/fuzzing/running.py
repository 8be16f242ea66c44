"""Runs the inputs of a kind in a process of their own, with a bound on time and memory, and counts the outcomes."""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from fuzzing.mutation import Strategy

SECONDS = 10.0
"""An input that takes longer hangs."""
MEMORY = 2**31
"""Bytes that an input may take beside what the process had before the first."""
GOOD = ("refused", "counted", "read")
BAD = ("traceback", "changed", "hang", "memory", "crash")


class Changed(AssertionError):
    """A row that was not touched came out otherwise."""


class Subject(Protocol):
    """What reads the files of a kind. `inputs` are changed files; `read` gives `read`, or `counted` where a part was
    refused and counted as such, and raises UserError where the whole was, Changed where another row was touched."""

    inputs: Strategy[Any]

    def read(self, given: Any) -> str: ...


Made = Callable[[Path], Subject]


@dataclass
class Found:
    """Outcomes of the inputs of a kind. told: of each bad outcome the place or message, and how often."""

    kind: str
    counts: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    slowest: float = 0.0
    grown: int = 0

    @property
    def inputs(self) -> int:
        return sum(self.counts.values())

    @property
    def good(self) -> bool:
        return not any(self.counts[name] for name in BAD)


def run_kind(kind: str, made: Made, inputs: int, seed: int, engine: str = "hypothesis") -> Found:
    """Put so many inputs through a kind, in one process, or in as many more as die of it."""
    found, begun = Found(kind), time.monotonic()
    lives = 0
    while found.inputs < inputs and lives < 20:
        before = found.inputs
        _life(found, made, inputs - found.inputs, seed + 1_000_003 * lives, engine)
        if found.inputs == before:
            break
        lives += 1
    found.seconds = time.monotonic() - begun
    return found


def _life(found: Found, made: Made, inputs: int, seed: int, engine: str) -> None:
    """One process: it says when an input begins and how it ended; who says nothing for too long is ended."""
    ours, theirs = os.pipe()
    with tempfile.TemporaryDirectory(prefix="mllm-eval-fuzz-") as folder:
        said = open(Path(folder) / "stderr", "w+b")  # noqa: SIM115
        sys.stdout.flush()
        child = os.fork()
        if not child:
            os.close(ours)
            _worker(Path(folder) / "home", made, inputs, seed, engine, theirs, said)
        os.close(theirs)
        with said, os.fdopen(ours, "rb") as lines:
            _follow(found, child, lines, said)


def _follow(found: Found, child: int, lines: IO[bytes], said: IO[bytes]) -> None:
    held, running, hung = b"", False, False
    while True:
        ready, _, _ = select.select([lines], [], [], SECONDS if running else 300)
        if not ready:
            hung = True
            os.kill(child, signal.SIGUSR1)
            time.sleep(0.5)
            os.kill(child, signal.SIGKILL)
            break
        piece = os.read(lines.fileno(), 2**16)
        if not piece:
            break
        held += piece
        *whole, held = held.split(b"\n")
        for line in whole:
            running = line == b"begin"
            if not running:
                _note(found, json.loads(line))
    _, status = os.waitpid(child, 0)
    said.seek(0)
    last = said.read().decode(errors="replace").strip().splitlines()
    if hung:
        found.counts["hang"] += 1
        found.told["hang: " + " < ".join(part.strip() for part in last if "File" in part)[:600]] += 1
    elif os.WIFSIGNALED(status):
        # Only that it crashed: an input that crashes a library is not to be kept.
        found.counts["crash"] += 1
        found.told[f"crash: {signal.Signals(os.WTERMSIG(status)).name}"] += 1
    elif os.WEXITSTATUS(status):
        raise RuntimeError(f"{found.kind}: the worker failed:\n" + "\n".join(last[-30:]))


def _note(found: Found, line: dict[str, Any]) -> None:
    found.counts[line["outcome"]] += 1
    if line["told"]:
        found.told[f"{line['outcome']}: {line['told']}"] += 1
    found.slowest = max(found.slowest, line["seconds"])
    found.grown = max(found.grown, line["grown"])


def _worker(home: Path, made: Made, inputs: int, seed: int, engine: str, pipe: int, said: IO[bytes]) -> None:
    """Never returns: what a fork has from its parent must not run twice."""
    status = 1
    try:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        faulthandler.register(signal.SIGUSR1, file=said, all_threads=False)
        home.mkdir()
        os.environ |= {"MLLM_EVAL_DATA": str(home / "data"), "MLLM_EVAL_RESULTS": str(home / "results")}
        os.chdir(home)
        subject = made(home)
        with suppress(FileNotFoundError):
            sizes = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
            bound = int(sizes["VmData"].split()[0]) * 1024 + MEMORY
            resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))
        _all_inputs(subject, inputs, seed, engine, pipe)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _all_inputs(subject: Subject, inputs: int, seed: int, engine: str, pipe: int) -> None:
    import hypothesis

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def one(given: Any) -> None:
        os.write(pipe, b"begin\n")
        start = time.monotonic()
        outcome, told = outcome_of(subject, given)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        if grown > MEMORY:
            outcome, told = "memory", told or f"{grown >> 20} MiB"
        line = {"outcome": outcome, "told": told, "seconds": time.monotonic() - start, "grown": grown}
        os.write(pipe, json.dumps(line).encode() + b"\n")

    settings = hypothesis.settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        derandomize=False,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    test = hypothesis.seed(seed)(settings(hypothesis.given(given=subject.inputs)(one)))
    if engine == "atheris":
        _guided(test, inputs, seed, pipe)
    test()


def _guided(test: Any, inputs: int, seed: int, pipe: int) -> None:
    """The same inputs, steered by which lines of this package they reach. libFuzzer ends the process itself."""
    import atheris

    def one(data: bytes) -> None:
        test.hypothesis.fuzz_one_input(data)

    options = [f"-runs={inputs}", f"-seed={seed or 1}", "-artifact_prefix=/dev/null/", "-max_len=4096"]
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


def outcome_of(subject: Subject, given: Any) -> tuple[str, str]:
    """What becomes of one input, and of a bad outcome the place."""
    from mllm_eval.errors import UserError
    from mllm_eval.escaping import line

    try:
        return subject.read(given), ""
    except UserError as refused:
        text = str(refused)
        fine = bool(text) and line(text) == text
        return ("refused", "") if fine else ("traceback", f"not one printable line: {text[:80]!a}")
    except Changed as changed:
        return "changed", str(changed)[:200]
    except MemoryError as problem:
        return "memory", _place(problem)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as problem:
        # A library in Rust may panic, which is no Exception.
        return "traceback", _place(problem)


def _place(problem: BaseException) -> str:
    frames = traceback.extract_tb(problem.__traceback__)
    own = [frame for frame in frames if "mllm_eval" in frame.filename and "fuzzing" not in frame.filename]
    last = (own or frames)[-1]
    words = " ".join(str(problem).split())[:100].encode("ascii", "backslashreplace").decode()
    return f"{Path(last.filename).name}:{last.lineno} {last.name}: {type(problem).__name__}: {words}"
