"""What a run has left, and what was noted of fetched files."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import parquet_rows
import site_runs
import typer
from hypothesis import strategies as st

from fuzzing.mutation import Strategy, changed_bytes, changed_json, changed_lines, changed_yaml
from fuzzing.running import Changed, Subject
from mllm_eval.cli.app import app
from mllm_eval.data.snapshotlock import lock_path as data_lock
from mllm_eval.data.snapshots import load_samples
from mllm_eval.errors import UserError
from mllm_eval.hub import Source, lock_path, locked_folder
from mllm_eval.hub.fetch import adopt
from mllm_eval.storage import write_json


def changed_file(path: Path) -> Strategy[tuple[Path, bytes]]:
    """A file changed as its ending says."""
    data = path.read_bytes()
    if path.suffix == ".yaml":
        made: Strategy[bytes] = changed_yaml(data)
    elif path.suffix == ".jsonl":
        made = changed_lines([json.loads(line) for line in data.splitlines()]).map(lambda one: one.data)
    else:
        made = changed_json(json.loads(data)) if path.suffix in (".json", ".place") else changed_bytes(data)
    return made.map(lambda new: (path, new))


COMMAND: Any = typer.main.get_command(app)


def called(*words: str) -> str:
    """What a command prints. Raises UserError with its line where it exits with 2, and what it does not catch."""
    out, said = io.StringIO(), io.StringIO()
    code: object = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        try:
            COMMAND.main(list(words), prog_name="mllm-eval")
        except SystemExit as ended:
            code = ended.code
    lines = said.getvalue().splitlines()
    if code == 2 and len(lines) == 1:
        raise UserError(lines[0].removeprefix("mllm-eval: "))
    if code:
        raise Changed(f"{words[0]} exits with {code} and {len(lines)} lines")
    return out.getvalue()


class Record(Subject):
    """A run's folder, as `ls`, `show` and `table` read it; the other run's row stays what it is."""

    def __init__(self, home: Path) -> None:
        one = site_runs.answered("one", 0.6, ["gqa", "mmvp"], 12)
        site_runs.answered("two", 0.4, ["gqa", "mmvp"], 12)
        write_json(one.folder / "probes.json", {"in1k": {"value": 50.0, "n": 10, "how": "x"}})
        self.folder, self.hash = one.folder, one.hash
        names = ("config.yaml", "manifest.json", "ledger.jsonl", "scores/gqa.cambrian.json", "probes.json",
                 "scores/gqa.cambrian.jsonl", "answers/gqa.jsonl", "stage1/log.jsonl")  # fmt: skip
        self.inputs = st.one_of([changed_file(self.folder / name) for name in names])
        self.sound = self.row("two")
        if not self.sound:
            raise RuntimeError("no row to compare with")

    def call(self, *words: str) -> str:
        return called(*words)

    def row(self, encoder: str) -> list[str]:
        text = self.call("table", "--details", "--format", "csv")
        return [line for line in text.splitlines() if f",{encoder}," in line]

    def read(self, given: tuple[Path, bytes]) -> str:
        path, data = given
        sound = path.read_bytes()
        path.write_bytes(data)
        refused: UserError | None = None
        try:
            for words in (["ls"], ["show", self.hash], ["show", self.hash, "--benchmark", "gqa"]):
                try:
                    self.call(*words)
                except UserError as problem:
                    refused = problem
            if (found := self.row("two")) != self.sound:
                raise Changed(f"the row of the other run: {found}"[:300])
        finally:
            path.write_bytes(sound)
        if refused is not None:
            raise refused
        return "read"


class HubLock(Subject):
    """The lock of a model, and the note of where its files are."""

    def __init__(self, home: Path) -> None:
        self.source = Source("model", "owner/model", "main", "fetch it again")
        folder = home / "model"
        folder.mkdir()
        for name in ("config.json", "model.safetensors"):
            (folder / name).write_bytes(name.encode() * 9)
        (home / "outside").write_bytes(b"x")
        adopt(self.source, lambda names: names, folder)
        path = lock_path(self.source)
        self.folder = folder
        self.inputs = st.one_of(changed_file(path), changed_file(path), changed_file(path.with_suffix(".place")))

    def read(self, given: tuple[Path, bytes]) -> str:
        path, data = given
        sound = path.read_bytes()
        path.write_bytes(data)
        try:
            locked_folder(self.source)
        finally:
            path.write_bytes(sound)
        return "read"


class DataLock(Subject):
    """The lock of a benchmark's data: what is read is what was locked, or nothing."""

    def __init__(self, home: Path) -> None:
        from mllm_eval.data.lockmaking import adopted, lock

        self.benchmark = parquet_rows.unpinned("chartqa")
        pin = self.benchmark.data["hub"].model_copy(update={"revision": None})
        self.benchmark = self.benchmark.model_copy(update={"data": {"hub": pin}})
        parquet_rows.write_parquet(home / "brought", pin, parquet_rows.rows_of("chartqa") * 3)
        lock(self.benchmark, "hub", adopted(self.benchmark, "hub", home / "brought"), lambda *_: None)
        path = data_lock("chartqa", "hub")
        self.sound = [sample.prompt for sample in load_samples(self.benchmark, "hub")]
        self.inputs = st.one_of(changed_file(path), changed_file(path), changed_file(path.with_suffix(".place")))

    def read(self, given: tuple[Path, bytes]) -> str:
        path, data = given
        sound = path.read_bytes()
        path.write_bytes(data)
        try:
            if [sample.prompt for sample in load_samples(self.benchmark, "hub")] != self.sound:
                raise Changed("the samples")
        finally:
            path.write_bytes(sound)
        return "read"


class Shard(Subject):
    """The feature store: a row is what was put, or is missing."""

    def __init__(self, home: Path) -> None:
        import torch

        from mllm_eval.features import FeatureStore

        self.torch, self.store = torch, FeatureStore
        self.home, self.names = home / "results/features/x", [hashlib.sha256(b"%d" % at).hexdigest() for at in range(5)]
        values = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 13, 5)).astype(np.float32))
        self.patches, self.summaries = values[:, 1:].reshape(5, 3, 4, 5), values[:, 0]
        store = self.store(self.home, (3, 4), 5, meta={"encoder": "mini-dino"})
        store.put_many(self.names, self.patches, self.summaries)
        store.close()
        self.kept = {path: path.read_bytes() for path in self.home.iterdir()}
        # What is imported late is imported now: it is no part of the time of an input.
        called("features", "ls")
        shard, index = (next(path for path in self.kept if path.suffix == end) for end in (".safetensors", ".index"))
        self.inputs = st.one_of(
            changed_bytes(self.kept[shard][:512]).map(lambda head: (shard, head + self.kept[shard][512:])),
            changed_file(shard), changed_file(index), changed_file(self.home / "meta.json"),
        )  # fmt: skip

    def read(self, given: tuple[Path, bytes]) -> str:
        path, data = given
        shutil.rmtree(self.home)
        self.home.mkdir()
        for other, sound in self.kept.items():
            other.write_bytes(data if other == path else sound)
        called("features", "ls")
        store = self.store(self.home, (3, 4), 5)
        rows, missing = store.rows(self.names)
        for number in range(5):
            if number not in missing and not self.torch.equal(rows[number, :-1].reshape(3, 4, 5), self.patches[number]):
                raise Changed(f"row {number}")
        store.close()
        return "counted" if missing else "read"


SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    "run record": Record, "hub lock": HubLock, "data lock": DataLock, "feature shard": Shard,
}  # fmt: skip
