"""Filters a corpus on Ray: shards are rows of a data set, the model is an actor, the files are on a shared disk.

A worker writes the files of a shard itself, completely or not at all, and returns only the shard's name and counts: no
image passes through Ray's object store. Shards that a worker finished before it died are kept; the one it was working
on is retried.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mllm_eval.environment import threads
from mllm_eval.errors import UserError, exception_words
from mllm_eval.filtering.corpus import Shard
from mllm_eval.filtering.corpusrun import Do, Work, record_judge, timed
from mllm_eval.filtering.deciding import FilterSettings, Places, tally_of
from mllm_eval.filtering.judging import Judge
from mllm_eval.filtering.tally import Tally
from mllm_eval.storage import data_home, results_home

LACKING = "filtering on Ray needs it: pip install 'mllm_eval[filter]'"
LOCAL = "local"
# How often a shard is retried after its worker died.
TRIES = 3
# The largest number of blocks, since each costs Ray time. A retried block skips the shards that are already done.
BLOCKS = 2000


class Worker:
    """The Ray actor: a model that decides shards.

    A problem of the user is returned in a row: Ray would wrap an error in its own, and restart an actor that can't load
    its model.
    """

    def __init__(self, judge: Callable[[], Judge], asked: FilterSettings, places: Places) -> None:
        self.judge: Judge | None = None
        self.problem, self.asked, self.places = "", asked, places
        try:
            self.judge = judge()
            record_judge(self.judge, places)
        except UserError as problem:
            self.problem = str(problem)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Decides the shard of a row; returns a row with its name and counts, or with a problem."""
        if self.judge is None or self.problem:
            return {"name": row["name"], "problem": self.problem, "tally": ""}
        try:
            shard = shard_of(row)
            # A retried shard may have been finished before its worker died.
            tally = tally_of(shard, self.asked, self.places)
            tally = tally or timed(shard, self.judge, self.asked, self.places)
        except UserError as problem:
            return {"name": row["name"], "problem": str(problem), "tally": ""}
        return {"name": shard.name, "problem": "", "tally": json.dumps(tally.to_dict())}


def row_of(shard: Shard) -> dict[str, Any]:
    """A shard as a row of a few bytes: of a folder's files only the first and the last, which the worker lists between.

    Paths are bytes, since not all are valid UTF-8.
    """
    first, last = (os.fsencode(shard.files[at]) if shard.files else b"" for at in (0, -1))
    return {"name": shard.name, "kind": shard.kind, "path": os.fsencode(shard.path), "first": first, "last": last}


def shard_of(row: dict[str, Any]) -> Shard:
    """The shard of `row_of`."""
    path, first, last = (os.fsdecode(row[name]) for name in ("path", "first", "last"))
    return Shard.between(row["name"], path, first, last) if first else Shard(row["name"], row["kind"], path)


def on_ray(address: str = LOCAL, workers: int = 2, gpus: float | None = None) -> Do:
    """Decides shards with `workers` models at a time on a Ray cluster; `local` starts one on this machine.

    gpus: number of GPUs per model; by default one if the cluster has any. Raises UserError if Ray is not installed or
    can't be reached, and for errors of its workers.
    """
    try:
        import ray
        import ray.data
    except ImportError:
        raise UserError(LACKING) from None

    def do(work: Work, shards: Iterable[Shard]) -> Iterator[tuple[str, Tally]]:
        started = not ray.is_initialized()
        if started:
            where: dict[str, Any] = {"num_cpus": workers} if address == LOCAL else {"address": address}
            if address == LOCAL:
                where["include_dashboard"] = False
            where |= {"log_to_driver": False, "configure_logging": False}
            with _in_one_line(f"--ray {address}", "start a cluster by `ray start --head`, or give --ray local"):
                ray.init(runtime_env={"env_vars": _environment()}, **where)
        try:
            here = ray.cluster_resources().get("GPU", 0) if gpus is None else 0
            own = gpus if gpus is not None else min(here, 1)
            with _in_one_line("a worker on Ray failed", "finished shards stay, and the same command continues"):
                yield from _decided(work, shards, min(workers, int(here)) if here >= 1 else workers, own)
        finally:
            if started:
                ray.shutdown()

    return do


@contextmanager
def _in_one_line(what: str, mend: str) -> Iterator[None]:
    """Turns Ray's errors into a UserError: what failed, the line of Ray's message with the cause, and what to do."""
    import ray.exceptions

    try:
        yield
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as problem:
        # A Python error of a worker arrives with its class as `cause`.
        cause = getattr(problem, "cause", None) or problem
        lines = [line.strip() for line in exception_words(cause).splitlines() if line.strip()]
        said = lines[-1] if isinstance(cause, ray.exceptions.RayError) else lines[0]
        raise UserError(f"{what}: {said}; {mend}") from problem


def _environment() -> dict[str, str]:
    """A worker's environment on any machine: the same folders, and as many threads, which affect rounding."""
    said = {"MLLM_EVAL_RESULTS": str(results_home()), "MLLM_EVAL_DATA": str(data_home())}
    if path := os.environ.get("MLLM_EVAL_PATH"):
        said["MLLM_EVAL_PATH"] = os.pathsep.join(str(Path(part).absolute()) for part in path.split(os.pathsep) if part)
    return {**said, "OMP_NUM_THREADS": str(threads())}


def _decided(work: Work, shards: Iterable[Shard], workers: int, gpus: float) -> Iterator[tuple[str, Tally]]:
    import ray.data

    rows = [row_of(one) for one in shards]
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # Errors of a shard are returned as problems; a worker that dies is a lost machine, which restarts handle.
    context.max_errored_blocks = 0
    data = ray.data.from_items(rows, override_num_blocks=min(len(rows), BLOCKS)).map(
        Worker,
        fn_constructor_args=(work.judge, work.asked, work.places),
        # One shard in flight per actor, so that no shard waits behind a slow one.
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows)), max_tasks_in_flight_per_actor=1),
        num_cpus=1,
        num_gpus=gpus,
        max_restarts=TRIES,
        max_task_retries=TRIES,
    )
    for row in data.iter_rows():
        if row["problem"]:
            raise UserError(row["problem"])
        yield row["name"], Tally.of_dict(json.loads(row["tally"]))
