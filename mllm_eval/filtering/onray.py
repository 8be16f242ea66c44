"""Filters a corpus on Ray: shards are rows of a data set, the model is an actor, the files are on a shared disk.

A worker writes the files of a shard itself, completely or not at all, and returns only the shard's name and counts: no
image passes through Ray's object store. Shards that a worker finished before it died are kept; the one it was working
on is retried.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from mllm_eval.environment import threads
from mllm_eval.errors import UserError
from mllm_eval.filtering.corpus import Shard
from mllm_eval.filtering.corpusrun import Do, Work, timed
from mllm_eval.filtering.deciding import Asked, Places, tally_of
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
    """The Ray actor: a model that decides shards."""

    def __init__(self, judge: Callable[[], Judge], asked: Asked, places: Places) -> None:
        self.judge, self.asked, self.places = judge(), asked, places

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Decides the shard of a row; returns a row with its name and counts, or with a problem."""
        shard = Shard(row["name"], row["kind"], row["path"], tuple(json.loads(row["files"])))
        try:
            # A retried shard may have been finished before its worker died.
            tally = tally_of(shard, self.asked, self.places)
            tally = tally or timed(shard, self.judge, self.asked, self.places)
        except UserError as problem:
            return {"name": shard.name, "problem": str(problem), "tally": "", "about": ""}
        about = json.dumps(self.judge.about)
        return {"name": shard.name, "problem": "", "tally": json.dumps(tally.to_dict()), "about": about}


def on_ray(address: str = LOCAL, workers: int = 2, gpus: float = 0) -> Do:
    """Decides shards with `workers` models at a time on a Ray cluster; `local` starts one on this machine.

    gpus: number of GPUs per model. Raises UserError if Ray is not installed.
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
            ray.init(log_to_driver=False, configure_logging=False, runtime_env={"env_vars": _environment()}, **where)
        try:
            yield from _decided(work, shards, workers, gpus)
        finally:
            if started:
                ray.shutdown()

    return do


def _environment() -> dict[str, str]:
    """A worker's environment on any machine: the same folders, and as many threads, which affect rounding."""
    said = {"MLLM_EVAL_RESULTS": str(results_home()), "MLLM_EVAL_DATA": str(data_home())}
    if path := os.environ.get("MLLM_EVAL_PATH"):
        said["MLLM_EVAL_PATH"] = os.pathsep.join(str(Path(part).absolute()) for part in path.split(os.pathsep) if part)
    return {**said, "OMP_NUM_THREADS": str(threads())}


def _decided(work: Work, shards: Iterable[Shard], workers: int, gpus: float) -> Iterator[tuple[str, Tally]]:
    import ray.data

    rows = [{"name": one.name, "kind": one.kind, "path": one.path, "files": json.dumps(one.files)} for one in shards]
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
        work.about.update(json.loads(row["about"]))
        yield row["name"], Tally.of_dict(json.loads(row["tally"]))
