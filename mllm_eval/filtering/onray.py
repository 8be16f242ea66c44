"""The same filter on Ray: shards as rows of a data set, the model as an actor, files where every machine sees them.

A worker writes a shard's files itself, whole or not at all, and only the name of the shard and its counts come back: no
picture passes through Ray's store. What was done by a worker that died stays, and its shard is tried again.
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
# How often a shard whose worker died is tried again.
TRIES = 3
# More only cost Ray time: of shards in one block those that are done are not done again.
BLOCKS = 2000


class Worker:
    """A model that decides shards: one actor."""

    def __init__(self, judge: Callable[[], Judge], asked: Asked, places: Places) -> None:
        self.judge, self.asked, self.places = judge(), asked, places

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row with a shard -> a row with its name and its counts."""
        shard = Shard(row["name"], row["kind"], row["path"], tuple(json.loads(row["files"])))
        try:
            # A shard that is tried again may have been done when its worker died.
            tally = tally_of(shard, self.asked, self.places)
            tally = tally or timed(shard, self.judge, self.asked, self.places)
        except UserError as problem:
            return {"name": shard.name, "problem": str(problem), "tally": "", "about": ""}
        about = json.dumps(self.judge.about)
        return {"name": shard.name, "problem": "", "tally": json.dumps(tally.to_dict()), "about": about}


def on_ray(address: str = LOCAL, workers: int = 2, gpus: float = 0) -> Do:
    """Decide shards by `workers` models at a time on a Ray cluster, or on one that is started here (`local`).

    gpus: of each model. Raises UserError where Ray is not installed.
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
    """What a worker is told, wherever it starts: the same folders, and the same threads, on which roundings hang."""
    said = {"MLLM_EVAL_RESULTS": str(results_home()), "MLLM_EVAL_DATA": str(data_home())}
    if path := os.environ.get("MLLM_EVAL_PATH"):
        said["MLLM_EVAL_PATH"] = os.pathsep.join(str(Path(part).absolute()) for part in path.split(os.pathsep) if part)
    return {**said, "OMP_NUM_THREADS": str(threads())}


def _decided(work: Work, shards: Iterable[Shard], workers: int, gpus: float) -> Iterator[tuple[str, Tally]]:
    import ray.data

    rows = [{"name": one.name, "kind": one.kind, "path": one.path, "files": json.dumps(one.files)} for one in shards]
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # A worker that dies is a machine that went away, not a fault of the shard.
    context.max_errored_blocks = 0
    data = ray.data.from_items(rows, override_num_blocks=min(len(rows), BLOCKS)).map(
        Worker,
        fn_constructor_args=(work.judge, work.asked, work.places),
        # A shard at a time, so that none waits behind a slow one: what is held back is Ray's own back-pressure.
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
