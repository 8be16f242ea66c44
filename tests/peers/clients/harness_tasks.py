"""What the two harnesses share: questions as tasks over parquet files, and answers out of a log of samples."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def write_tasks(folder: Path, to: Path, task: str, functions: str) -> list[str]:
    """A task for each limit of tokens that questions have; their names.

    task: the yaml, with places for parquet file, name and limit. functions: the module `asking` that it names.
    """
    lines = (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    by_limit: dict[int, list[dict[str, Any]]] = {}
    for asked in map(json.loads, lines):
        images = [(folder / name).read_bytes() for name in asked["images"]]
        by_limit.setdefault(asked["limit"], []).append({**asked, "images": images, "answer": ""})
    to.mkdir(parents=True)
    (to / "asking.py").write_text(functions, encoding="utf-8")
    for limit, rows in by_limit.items():
        pq.write_table(pa.Table.from_pylist(rows), to / f"asked_{limit}.parquet")
        text = task % (to / f"asked_{limit}.parquet", f"asked_{limit}", limit)
        (to / f"asked_{limit}.yaml").write_text(text, encoding="utf-8")
    return [f"asked_{limit}" for limit in by_limit]


def ask(words: list[str], task: str, functions: str) -> None:
    """Write the tasks, run a harness, and read what it logged; the program's arguments are EXPORT FOLDER OUT.

    words: the harness, a module of this Python, and its options, `{export}` standing for the folder of the export.
    task, functions: as `write_tasks` takes them. Its exit code is no word on its results.
    """
    export, folder, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    tasks, logged = out.parent / "tasks", out.parent / "logged"
    names = write_tasks(folder, tasks, task, functions)
    shared = ["--tasks", ",".join(names), "--include_path", str(tasks), "--batch_size", "1", "--log_samples"]
    own = [word.replace("{export}", export) for word in words]
    done = subprocess.run([sys.executable, "-m", *own, *shared, "--output_path", str(logged)], check=False)
    if done.returncode:
        sys.exit(f"{words[0]} ended with exit code {done.returncode}")
    answers_logged(logged, tasks, out)


def answers_logged(logged: Path, tasks: Path, out: Path) -> None:
    """The answers of all logs of samples, a line of id and text each; ends the program where there is none.

    A sample is known by its row in the task's file, which is all of it that both harnesses log.
    """
    answers = []
    for file in sorted(logged.rglob("*samples_asked_*.jsonl")):
        name = re.search(r"asked_\d+", file.name)
        assert name is not None
        ids = pq.read_table(tasks / f"{name[0]}.parquet", columns=["id"])["id"].to_pylist()
        for sample in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            text = sample["filtered_resps"]
            while isinstance(text, list):
                text = text[0]
            answers.append({"id": ids[sample["doc_id"]], "text": text})
    if not answers:
        sys.exit("the harness logged no samples")
    out.write_text("".join(json.dumps(one) + "\n" for one in answers), encoding="utf-8")
