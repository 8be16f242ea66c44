"""Kills every step of the flow at random points, starts it again, and compares with a run that nobody disturbed.

`make faults KILLS=200` runs this file. A step runs in a process that is forked from one which has imported everything,
so that a kill costs a second or two. Half of the kills fall at a random time, half at a random call that changes files:
an open, a write, an fsync, a rename, of those that the step names where it names any. Points come from a seed.

A further step is one line of `STEPS`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

RECIPE = str(Path(__file__).parent / "recipes" / "tiny.yaml")
ENCODER = "tiny-dinov2"
# Seconds that any start may take at most, and how many times as long as the undisturbed one.
LONGEST, SLOWER = 120.0, 20.0
# What differs from run to run, and says nothing of a result: times, also of the files that were looked at (settled),
# and what a filter's page tells of its speed.
VOLATILE = {"ledger.jsonl", "manifest.json", "settled.json", "report.html"}
# A checksum is written behind its file: of a step that was killed in between the file has none, and is taken as it is.
BESIDE = (".lock", ".sha256", ".tmp", ".sum")
TIMES = {"seconds", "time", "environment", "ended", "cpu_seconds", "sessions", "built"}


@dataclass(frozen=True)
class Step:
    """A step of the flow: the words of a command, or a function of the home folder.

    without: what is removed of the state that the steps before have left, as patterns under the home folder.
    at: the calls that half of the kills fall at, as a pattern of paths; by default all under the home folder.
    """

    name: str
    do: list[str] | Callable[[Path], None]
    without: tuple[str, ...] = ()
    at: str = ""


def make_data(home: Path) -> None:
    from mllm_eval.miniature.build import build

    build(home / "data", alignment=24, instruction=40)


TRAIN = ["train", ENCODER, "--recipe", RECIPE]
EVAL = ["eval", ENCODER, "--recipe", RECIPE, "--benchmarks", "mme"]
STEPS = (
    Step("data", make_data, at="/data/"),
    Step("tokens", [*TRAIN, "--prepare"], at="/tokens/"),
    Step("features", TRAIN, at="/features/"),
    Step("stage 1", TRAIN, ("results/runs/*/checkpoint", "results/runs/*/stage?"), at="/stage1/"),
    Step("stage 2", TRAIN, ("results/runs/*/checkpoint", "results/runs/*/stage2"), at="/stage2/|/checkpoint/"),
    Step("a checkpoint's save", TRAIN, ("results/runs/*/checkpoint", "results/runs/*/stage2"), at="checkpoint-"),
    Step("answers", EVAL, at="/answers/"),
    Step("scores", ["score"], ("results/runs/*/scores", "results/runs/*/settled.json"), at="/scores/"),
    Step("table", ["table", "--format", "md", "--out", "{home}/results/tables/all.md"], at="/tables/"),
    Step("report", ["report", "--no-images"], ("results/report",), at="/report/"),
    Step("probe", ["probe", ENCODER, "--probe", "in1k_knn"]),
    Step("align", ["align", ENCODER, "--llm", "tiny-llama", "--permutations", "20"], at="/alignment/"),
    Step("filter", ["filter", "--images", "{home}/data/miniature/train/images", "--model", ENCODER], at="/filter/"),
    Step("leaks", ["leaks", RECIPE, "--encoder", ENCODER, "--benchmarks", "mme"], at="/leaks/"),
)


@dataclass
class Outcome:
    """What came of the kills of a step."""

    counts: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    """Seconds from SIGTERM to the end, at most."""
    problems: list[str] = field(default_factory=list)


def prepare(home: Path) -> None:
    """Tiny models, their yaml files and the environment of all steps."""
    os.environ.update(
        MLLM_EVAL_DATA=str(home / "data"),
        MLLM_EVAL_RESULTS=str(home / "results"),
        MLLM_EVAL_PATH=str(home),
        OMP_NUM_THREADS="1",
    )
    from tiny_models import write_models

    write_models(home)
    import deepspeed  # noqa: F401  what a step imports is imported once for all
    import matplotlib.pyplot  # noqa: F401

    import mllm_eval.alignment.measure
    import mllm_eval.cli.app
    import mllm_eval.generate.engine
    import mllm_eval.pipeline
    import mllm_eval.probes.measuring
    import mllm_eval.report.site
    import mllm_eval.train.stages  # noqa: F401


def _changes_files(event: str, args: tuple[Any, ...]) -> str:
    """The path that an audited event changes something of; empty for any other event."""
    if event == "open":
        path, mode, flags = args
        writes = (isinstance(mode, str) and set(mode) & set("wax+")) or (flags or 0) & (os.O_WRONLY | os.O_RDWR)
        return str(path) if writes and isinstance(path, str | Path) else ""
    if event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"):
        return str(args[0])
    return ""


def _count_calls(pattern: str, at: int, number: int, told: Path) -> None:
    """In a step's process: note how many calls fit, or send it a signal at the call of a number."""
    fits, calls = re.compile(pattern), 0

    def seen(path: str) -> None:
        nonlocal calls
        if fits.search(path):
            calls += 1
            if at == 0:
                os.pwrite(note, str(calls).encode(), 0)
            elif calls == at:
                os.kill(os.getpid(), number)

    note = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    sys.addaudithook(lambda event, args: seen(_changes_files(event, args)))
    for name in ("write", "pwrite", "fsync"):
        plain = getattr(os, name)

        def call(file: int, *rest: Any, plain: Any = plain) -> Any:
            if file != note:
                path = os.readlink(f"/proc/self/fd/{file}")
                seen(path)
                if rest and len(rest[0]) > 1 and fits.search(path):
                    # The second half is a call of its own: between both a line is torn.
                    done = plain(file, memoryview(rest[0])[: len(rest[0]) // 2], *rest[1:])
                    return done
            return plain(file, *rest)

        setattr(os, name, call)


def start(step: Step, home: Path, log: Path, at: int = 0, number: int = signal.SIGKILL, watched: bool = True) -> int:
    """The number of a process that does a step; `at`: the call at which it gets a signal; 0 for none."""
    sys.stdout.flush()
    sys.stderr.flush()
    if child := os.fork():
        return child
    code = 70
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if watched:
            _count_calls(step.at or re.escape(str(home)), at, number, home / "calls")
        if isinstance(step.do, list):
            from mllm_eval.cli.app import app

            code = int(app([word.format(home=home) for word in step.do], standalone_mode=False) or 0)
        else:
            step.do(home)
            code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except KeyboardInterrupt:
        code = 128 + signal.SIGTERM
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(child: int, seconds: float) -> int | None:
    """The exit code (minus a signal's number), None where it did not end in time; it is gone then."""
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.005)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items() if key not in TIMES}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def contents(home: Path) -> dict[str, str]:
    """Digest of each file that steps leave, without what differs from run to run; of a feature store its rows."""
    found: dict[str, str] = {}
    for path in sorted(one for part in ("data", "results") for one in (home / part).rglob("*") if one.is_file()):
        name, data = path.relative_to(home).as_posix(), path.read_bytes()
        if path.name in VOLATILE or path.suffix in BESIDE or path.name == ".lock":
            continue
        if "/features/" in name and "/alignment/" not in name:
            if path.suffix == ".index":
                rows = found.setdefault("features", "")
                found["features"] = "\n".join(sorted({*rows.split("\n"), *data.decode().split("\n")} - {""}))
            continue
        if path.suffix in (".json", ".jsonl") and "/report/" not in name:
            try:
                lines = [data] if path.suffix == ".json" else data.splitlines()
                data = json.dumps([_plain(json.loads(line)) for line in lines]).encode()
            except ValueError:
                pass
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def _put(state: Path, home: Path, without: tuple[str, ...]) -> None:
    for part in ("data", "results"):
        shutil.rmtree(home / part, ignore_errors=True)
        if (state / part).is_dir():
            shutil.copytree(state / part, home / part, copy_function=os.link if part == "data" else shutil.copy2)
    for pattern in without:
        for path in home.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@dataclass
class Undisturbed:
    """A step that nobody disturbed: how long it took, how many calls changed files, and what it left."""

    step: Step
    before: Path
    seconds: float
    calls: int
    contents: dict[str, str]


def run_all(steps: tuple[Step, ...], home: Path, say: Callable[[str], None]) -> list[Undisturbed]:
    """Every step once, each from what the one before has left."""
    found: list[Undisturbed] = []
    before = Path(tempfile.mkdtemp(dir=home))
    for step in steps:
        _put(before, home, step.without)
        begun = time.monotonic()
        code = wait(start(step, home, home / "log"), 10 * LONGEST)
        took = time.monotonic() - begun
        if code != 0:
            raise SystemExit(f"{step.name}: undisturbed it ends with {code}:\n{(home / 'log').read_text()[-2000:]}")
        calls = int((home / "calls").read_text() or 0)
        found.append(Undisturbed(step, before, took, calls, contents(home)))
        before = Path(tempfile.mkdtemp(dir=home))
        for part in ("data", "results"):
            if (home / part).is_dir():
                shutil.copytree(home / part, before / part)
        say(f"{step.name}: {took:.1f} s undisturbed, {calls} calls")
    return found


def kill(
    steps: tuple[Step, ...], kills: int, seed: int, home: Path, say: Callable[[str], None], minutes: float = 1e9
) -> dict[str, Outcome]:
    """Kill the steps by turns, so often in all, or until the minutes are over; what came of it, by step."""
    end = time.monotonic() + 60 * minutes
    prepare(home)
    drawn = random.Random(seed)
    whole = run_all(steps, home, say)
    found = {step.name: Outcome() for step in steps}
    for turn in range(kills):
        if time.monotonic() > end:
            say(f"the time is over after {turn} of {kills} kills")
            break
        one = whole[turn % len(whole)]
        own, step, rounds = found[one.step.name], one.step, turn // len(whole)
        _put(one.before, home, step.without)
        number = (signal.SIGKILL, signal.SIGTERM)[rounds % 2]
        at = drawn.randint(1, one.calls) if one.calls and rounds // 2 % 2 == 0 else 0
        moment = drawn.uniform(0, one.seconds)
        problem = _once(step, home, own, number, at, moment, max(LONGEST, SLOWER * one.seconds))
        if problem is None and (now := contents(home)) != one.contents:
            names = now.keys() | one.contents.keys()
            other = sorted(name for name in names if now.get(name) != one.contents.get(name))
            problem = f"other bytes: {', '.join(other[:3])}"
        own.counts["the same bytes" if problem is None else "failed"] += 1
        if problem is not None:
            where = f"call {at} of {one.calls}" if at else f"{moment:.2f} of {one.seconds:.2f} s"
            own.problems.append(f"{step.name}, {signal.Signals(number).name} at {where}: {problem}")
            say(own.problems[-1])
    return found


def _once(step: Step, home: Path, own: Outcome, number: int, at: int, moment: float, longest: float) -> str | None:
    """One kill and the start after it; what went wrong."""
    log, name = home / "log", signal.Signals(number).name
    child = start(step, home, log, at, number, watched=at > 0)
    sent = None
    if not at:
        code = wait_or_none(child, moment)
        if code is None:
            sent = time.monotonic()
            os.kill(child, number)
            code = wait(child, longest)
            if number == signal.SIGTERM:
                own.slowest = max(own.slowest, time.monotonic() - sent)
    else:
        code = wait(child, longest)
    own.counts[name if code not in (0, None) else "ended before"] += 1
    expected = {0, -number, 128 + number}
    if code not in expected:
        return f"ended with {code}: {log.read_text()[-300:]}"
    code = wait(start(step, home, log, watched=False), longest)
    if code != 0:
        return f"started again it {'hung' if code is None else f'ended with {code}'}: {log.read_text()[-300:]}"
    return None


def wait_or_none(child: int, seconds: float) -> int | None:
    """The exit code, None where it goes on; it is left alone."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def as_table(found: dict[str, Outcome]) -> str:
    """Markdown: a row for each step."""
    heads = ("step", "SIGKILL", "SIGTERM", "ended before", "the same bytes", "failed", "slowest end after SIGTERM")
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    whole = Counter[str]()
    for name, one in found.items():
        whole.update(one.counts)
        cells = [str(one.counts[head]) for head in heads[1:-1]]
        lines.append(f"| {name} | {' | '.join(cells)} | {one.slowest:.1f} s |")
    slowest = max((one.slowest for one in found.values()), default=0.0)
    lines.append(f"| in all | {' | '.join(str(whole[head]) for head in heads[1:-1])} | {slowest:.1f} s |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=120, help="no further kill after these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", default="", help="comma-separated; default: all")
    parser.add_argument("--out", type=Path, default=Path("results/bench/faults.md"))
    asked = parser.parse_args()
    chosen = [name.strip() for name in asked.steps.split(",") if name.strip()]
    if unknown := set(chosen) - {step.name for step in STEPS}:
        parser.error(f"unknown steps: {', '.join(sorted(unknown))}")
    last = max((at for at, step in enumerate(STEPS) if step.name in chosen), default=len(STEPS) - 1)
    steps = STEPS[: last + 1]
    out = asked.out.absolute()
    with tempfile.TemporaryDirectory(prefix="mllm-eval-faults-") as home:
        say = partial(print, file=sys.stderr, flush=True)
        found = kill(steps, asked.kills, asked.seed, Path(home), say, asked.minutes)
    table = as_table(found)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(f"{' '.join(sys.argv)}\n\n{table}\n")
    print(table)
    return int(any(one.problems for one in found.values()))


if __name__ == "__main__":
    sys.exit(main())
