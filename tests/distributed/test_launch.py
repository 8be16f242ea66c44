"""Launchers: what they start, what they refuse, and a Slurm job that is preempted and goes on."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_models import make_conversations, make_encoder, make_llm, make_recipe
from typer.testing import CliRunner, Result

from mllm_eval.cli.app import app
from mllm_eval.distributed import launchers
from mllm_eval.errors import UserError
from mllm_eval.run import Run
from mllm_eval.train import is_trained
from mllm_eval.train.stageprogress import latest_whole

# A Slurm of one machine: `sbatch` runs the script at once, `srun` starts its tasks and waits for them, `scontrol`
# notes that a job is to run again, as one that is preempted does. What each was called with is kept.
FAKES = {
    "sbatch": """
        echo "sbatch $@" >> $FAKE/calls
        cp "$1" $FAKE/script
        echo "Submitted batch job 77"
    """,
    "srun": """
        echo "srun $@" >> $FAKE/calls
        while [ "$1" != "--kill-on-bad-exit=1" ]; do shift; done
        shift
        for rank in $(seq 0 $((SLURM_NTASKS - 1))); do
            SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" &
            tasks="$tasks $!"
        done
        for task in $tasks; do
            wait -n || { code=$?; kill -9 $tasks; break; }
        done
        exit ${code:-0}
    """,
    "scontrol": """
        echo "scontrol $@" >> $FAKE/calls
    """,
    "squeue": "echo",
    "sacct": """
        echo "JobID|State|NodeList"
        echo "77|RUNNING|localhost"
    """,
}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "fake"
    folder.mkdir()
    for name, body in FAKES.items():
        path = folder / name
        path.write_text("#!/bin/bash\n" + textwrap.dedent(body))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("FAKE", str(folder))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    return folder


def write_run(folder: Path, **changes: Any) -> list[str]:
    data, images = make_conversations(folder / "data")
    models = {
        "encoder": make_encoder(folder / "encoder"),
        "llm": make_llm(folder / "llm"),
        "recipe": make_recipe(data, images, **{"stage1": {"micro_batch": 2}, "stage2": {"micro_batch": 2}, **changes}),
    }
    paths = {}
    for kind, model in models.items():
        paths[kind] = folder / f"{model.name}.yaml"
        paths[kind].write_text(yaml.safe_dump(model.model_dump(mode="json", exclude={"assumptions"})))
    return [str(paths["encoder"]), "--recipe", str(paths["recipe"]), "--llm", str(paths["llm"])]


def call(*words: str) -> Result:
    return CliRunner().invoke(app, ["train", *words])


def begin(cluster: Path, results: Path, tasks: int, restarts: int = 0) -> subprocess.Popen[bytes]:
    """What Slurm does when a job's turn has come."""
    environment = {
        **os.environ,
        "SLURM_JOB_ID": "77",
        "SLURM_NTASKS": str(tasks),
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_NODEID": "0",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_RESTART_COUNT": str(restarts),
        "OMP_NUM_THREADS": "1",
    }
    with (cluster / "output").open("ab") as output:
        return subprocess.Popen(["bash", str(cluster / "script")], env=environment, stdout=output, stderr=output)


@pytest.mark.slow
def test_a_slurm_job_is_queued_preempted_queued_again_and_ends(cluster: Path, tmp_path: Path) -> None:
    words = write_run(tmp_path, stage1={"micro_batch": 2, "steps": 150})
    run = Run.of(words[0], words[2], words[4])
    more = ["--cpus", "3", "--memory", "480G", "--notice", "400"]
    asked = ["--launch", "slurm", "--partition", "learn", "--nodes", "1", "--processes", "2", "--gpus", "0"]
    done = call(*words, *asked, "--hours", "2", "--account", "vision", *more)
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"job 77: {run.name}, logs in ")
    script = (cluster / "script").read_text()
    assert "--cpus-per-task=3 --mem=480G --kill-on-bad-exit=1" in script
    for line in ("cpus-per-task=3", "mem=480G", "signal=USR2@400"):
        assert f"#SBATCH --{line}" in script
    for line in ("partition=learn", "nodes=1", "ntasks-per-node=2", "time=120", "account=vision", "requeue"):
        assert f"#SBATCH --{line}" in script
    assert "gpus-per-node" not in script

    job = begin(cluster, tmp_path, 2)
    log = run.stage_dir(1) / "log.jsonl"
    while not log.is_file() or log.read_bytes().count(b"\n") < 20:
        with contextlib.suppress(subprocess.TimeoutExpired):
            pytest.fail(f"it ended with {job.wait(timeout=0.1)}: {logs_of(run)}")
    # What Slurm sends before it takes the machine away; srun passes it on to the tasks.
    subprocess.run(["pkill", "-USR2", "-P", children(job.pid)], check=True)
    job.wait()
    assert "scontrol requeue 77" in (cluster / "calls").read_text()
    assert not is_trained(run) and not (run.stage_dir(2) / "log.jsonl").exists()
    # No step is lost: the processes agreed on one at whose end all wrote a checkpoint.
    kept = latest_whole(run.stage_dir(1) / "checkpoints")
    assert kept is not None and kept.name == f"checkpoint-{len(log.read_text().splitlines())}"

    assert begin(cluster, tmp_path, 2, restarts=1).wait() == 0, logs_of(run)
    assert is_trained(run)
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == list(range(1, 151))
    # There is nothing left to queue.
    assert call(*words, *asked).output.strip() == str(run.checkpoint)


def children(pid: int) -> str:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=True)
    return found.stdout.split()[0]


def logs_of(run: Run) -> str:
    return "".join(path.read_text()[-3000:] for path in sorted((run.folder / "slurm").glob("*_log.*")))


def test_commands_of_the_launchers(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(subprocess, "call", lambda command, env: (started.append((command, env)), 3)[1])
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert launchers.run_processes("torchrun", "mllm_eval", ["train", "x"], 2) == 3
    launchers.run_processes("deepspeed", "mllm_eval", ["train", "x"], 2)
    torchrun, deepspeed = (command for command, _ in started)
    assert torchrun[1:5] == ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    assert deepspeed[1:5] == ["-m", "deepspeed.launcher.runner", "--num_gpus", "2"]
    assert torchrun[-4:] == ["-m", "mllm_eval", "train", "x"]
    assert deepspeed[-4:] == ["--module", "mllm_eval", "train", "x"]
    assert int(started[0][1]["OMP_NUM_THREADS"]) == max(1, len(os.sched_getaffinity(0)) // 2)
    with pytest.raises(UserError, match=r"launcher 'torchrum' is unknown\. Did you mean 'torchrun'\?"):
        launchers.run_processes("torchrum", "mllm_eval", [], 2)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--launch", "torchrun", "--processes", "3"], "batch 4 is not a multiple of micro_batch 2 x 3 processes"),
        (["--launch", "slurm", "--nodes", "3", "--gpus", "1"], "batch 4 is not a multiple of micro_batch 2 x 3"),
        (["--launch", "slrum"], "launcher 'slrum' is unknown. Did you mean 'slurm'?"),
        (["--launch", "torchrun", "--nodes", "2"], "--nodes goes with --launch slurm"),
        (["--processes", "2"], "--processes goes with --launch torchrun, deepspeed or slurm"),
    ],
)
def test_what_cannot_be_launched_is_refused_at_once(
    asked: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    done = call(*write_run(tmp_path), *asked)
    assert done.exit_code == 2 and message in done.output
    assert not (tmp_path / "results" / "runs").exists()


def test_what_is_started_is_the_same_command_without_the_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    started: list[tuple[str, str, list[str], int]] = []
    monkeypatch.setattr(launchers, "run_processes", lambda *given: (started.append(given), 3)[1])
    words = [*write_run(tmp_path), "--benchmarks", "mme", "--blind"]
    asked = ["--launch", "torchrun", "--processes", "2"]
    assert CliRunner().invoke(app, ["eval", *words, *asked]).exit_code == 3
    assert CliRunner().invoke(app, ["train", *asked, *words[:-3], "--seed", "4"]).exit_code == 3
    assert started == [
        ("torchrun", "mllm_eval", ["eval", *words], 2),
        ("torchrun", "mllm_eval", ["train", *words[:-3], "--seed", "4"], 2),
    ]


def test_slurm_is_missed_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    words = write_run(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    done = call(*words, "--launch", "slurm", "--gpus", "1")
    assert done.exit_code == 2 and "there is no `srun` on this machine" in done.output


def test_a_refused_job_says_why(cluster: Path, tmp_path: Path) -> None:
    (cluster / "sbatch").write_text("#!/bin/bash\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    done = call(*write_run(tmp_path), "--launch", "slurm", "--gpus", "1")
    assert done.exit_code == 2 and "the job was refused" in done.output and "invalid partition" in done.output
