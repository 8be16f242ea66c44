"""`mllm-eval check gpu` on a CPU: its checks pass at tiny shapes, and fail with a fault in what each is to hold."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from places import ROOT
from typer.testing import CliRunner

from mllm_eval.cli.app import app
from mllm_eval.errors import UserError
from mllm_eval.gpucheck import machine, miniature, processes, run, trainings
from mllm_eval.gpucheck.result import Check, holds
from mllm_eval.gpucheck.run import Kind, chosen, run_checks
from mllm_eval.gpucheck.session import Session
from mllm_eval.gpucheck.trainings import DRY, PLAIN, ZERO, golden, losses_apart
from mllm_eval.storage import PACKAGE

# Lines that are judged on a CPU.
TESTS = {"ceilings": 1, "attention": 2, "dtype": 5, "generation": 1, "training": 2, "stage1": 2}
TRAINED = ("miniature", "leftovers")


@pytest.fixture(autouse=True)
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def a_session(folder: Path, **rest: Any) -> Session:
    return Session(folder, True, "cpu", "CPU", 460, lambda _: None, **rest)


def judged(checks: list[Check]) -> dict[str, bool]:
    return {one.name: one.passed for one in checks if one.passed is not None}


# ---- a line ----
@pytest.mark.parametrize(
    ("value", "direction", "bound", "right"),
    [(2.0, "<=", 2.0, True), (2.1, "<=", 2.0, False), (1.3, ">=", 1.3, True), (1.2, ">=", 1.3, False),
     ("torch.bfloat16", "==", "torch.bfloat16", True), ("torch.float32", "==", "torch.bfloat16", False),
     (math.nan, "<=", 2.0, False), (math.nan, ">=", 2.0, False), (None, "<=", 2.0, False)],
)  # fmt: skip
def test_a_value_is_held_to_its_bound_and_what_is_no_number_never_passes(
    tmp_path: Path, value: Any, direction: Any, bound: Any, right: bool
) -> None:
    assert holds(value, direction, bound) == right
    session = a_session(tmp_path)
    session.group = "some"
    session.judge("thing", value, direction, bound, "s")
    (one,) = session.checks
    assert one.state == ("PASS" if right else "FAIL") and one.line().startswith(f"{one.state} some")
    # Every line is JSON, and so is the whole.
    assert json.loads(json.dumps(one.to_dict(), allow_nan=False))["state"] == one.state


def test_speed_is_judged_at_true_shapes_only_and_a_skip_is_no_pass(tmp_path: Path) -> None:
    session = a_session(tmp_path)
    session.judge_on_gpu("speed", 0.5, ">=", 1.3)
    session.seen("value", 3)
    session.skip("all of it", "no time left")
    session.fail("broke", "no memory")
    session.dry = False
    session.judge_on_gpu("speed", 0.5, ">=", 1.3)
    assert [one.state for one in session.checks] == ["SEEN", "SEEN", "SKIP", "FAIL", "FAIL"]
    assert session.checks[0].line().endswith("speed: 0.5 (>= 1.3); not judged on a CPU")


# ---- all of them together ----
def a_module(name: str, check: Any, monkeypatch: pytest.MonkeyPatch) -> Kind:
    @contextmanager
    def planted() -> Iterator[None]:
        yield

    made = types.ModuleType(f"mllm_eval.gpucheck.{name}")
    made.check, made.planted = check, planted  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return Kind(name, 50, 50)


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> dict[str, Kind]:
    def breaks(_: Session) -> None:
        raise RuntimeError("first line\nsecond line")

    kinds = {
        "good": a_module("good", lambda session: session.judge("one", 1, "==", 1), monkeypatch),
        "bad": a_module("bad", breaks, monkeypatch),
        "last": a_module("last", lambda session: session.judge("two", 2, "==", 2), monkeypatch),
    }
    monkeypatch.setattr(run, "ONE_GPU", kinds)
    return kinds


@pytest.mark.slow
def test_what_raises_has_failed_in_a_line_and_the_others_go_on(three: dict[str, Kind], tmp_path: Path) -> None:
    told: list[Check] = []
    found = run_checks(told.append, dry=True, to=tmp_path / "a.json")
    assert [(one.group, one.state) for one in found] == [("good", "PASS"), ("bad", "FAIL"), ("last", "PASS")]
    assert found == told and found[1].note == "RuntimeError: first line"
    kept = json.loads((tmp_path / "a.json").read_text())
    assert kept["counts"] == {"PASS": 2, "FAIL": 1, "SKIP": 0, "SEEN": 0} and kept["dry"] and kept["device"] == "CPU"
    assert {"name", "value", "bound", "unit", "direction", "passed", "seconds", "device"} <= set(kept["checks"][0])


@pytest.mark.slow
def test_what_has_no_time_left_is_skipped_and_said_to_be(three: dict[str, Kind], tmp_path: Path) -> None:
    three["bad"] = Kind("bad", 5000, 5000)
    found = run_checks(lambda _: None, dry=True, budget=60)
    assert [(one.group, one.state) for one in found] == [("good", "PASS"), ("bad", "SKIP"), ("last", "PASS")]
    assert re.fullmatch(r"about 5000 s, and \d+ s are left of 60", found[1].note)
    assert not os.environ.get("CUDA_VISIBLE_DEVICES")


def test_a_training_that_another_check_has_done_costs_nothing_more(tmp_path: Path) -> None:
    session, kind = a_session(tmp_path), Kind("any", 9, 1, (PLAIN, ZERO))
    assert kind.seconds(session) == 1 + PLAIN.dry_cost + ZERO.dry_cost
    session.trained["zero"] = {}
    assert kind.seconds(session) == 1 + PLAIN.dry_cost
    session.dry = False
    assert kind.seconds(session) == 9 + PLAIN.cost


def test_on_an_h200_all_checks_of_one_gpu_fit_into_the_budget(tmp_path: Path) -> None:
    session = a_session(tmp_path)
    session.dry = False
    taken = 0.0
    for kind in run.ONE_GPU.values():
        taken += kind.seconds(session)
        session.trained |= {one.name: {} for one in kind.trainings}
    assert len(run.ONE_GPU) == 8 and taken <= run.BUDGET < 8 * 60


@pytest.mark.slow
def test_the_command_says_what_failed_by_its_exit_code(three: dict[str, Kind], tmp_path: Path) -> None:
    def call(*words: str) -> Any:
        return CliRunner().invoke(app, ["check", "gpu", *words])

    done = call("--dry", "--json", str(tmp_path / "a.json"))
    assert done.exit_code == 1 and "FAIL bad        broke; RuntimeError: first line" in done.stdout
    assert done.stdout.endswith(f"2 passed, 1 failed; {tmp_path / 'a.json'}\n")
    done = call("--dry", "--only", "good,last", "--budget", "1")
    assert done.exit_code == 0 and "0 passed, 0 failed; not proved, for want of time: good, last; " in done.stdout
    done = call("--dry", "--only", "god")
    assert done.exit_code == 2 and "unknown check 'god'. Did you mean 'good'?" in done.stderr
    done = call()
    assert done.exit_code == 2 and "1 GPU is asked for, torch sees 0" in done.stderr and "--dry" in done.stderr
    # The first word alone is still the command that it was.
    assert "unknown encoder 'gpus'" in CliRunner().invoke(app, ["check", "gpus"]).stderr


def test_several_gpus_have_checks_of_their_own() -> None:
    assert set(chosen([], 2)) == {"processes"}
    with pytest.raises(UserError, match="unknown check 'attention'"):
        chosen(["attention"], 2)
    with pytest.raises(UserError, match="gpus 3: they share batches of 16 rows evenly; ask for 1, 2, 4, 8 or 16"):
        chosen([], 3)
    # What each process takes at a time, of batches of 32 and 16.
    for gpus in (1, 2, 4, 8, 16):
        first, second = map(int, re.findall(r"micro_batch: (\d+)", ZERO.recipe(DRY, gpus)))
        assert 32 % (first * gpus) == 16 % (second * gpus) == 0


@pytest.mark.parametrize(
    ("name", "key"),
    [("NVIDIA H200", "H200"), ("NVIDIA A100-SXM4-40GB", "A100-40"), ("NVIDIA A100-SXM4-80GB", "A100"),
     ("NVIDIA RTX A6000", "A6000"), ("Tesla T4", None)],
)  # fmt: skip
def test_a_gpu_is_found_in_the_data_sheets_by_its_drivers_name(name: str, key: str | None) -> None:
    from mllm_eval.plan.gpus import parse_gpus

    assert machine.sheet(name) == (None if key is None else parse_gpus(f"1x{key}")[2])


# ---- each, with and without its fault ----
@pytest.mark.slow
@pytest.mark.parametrize("group", TESTS)
def test_a_check_passes_and_each_judged_line_fails_with_its_fault(group: str) -> None:
    found = run_checks(lambda _: None, [group], dry=True)
    assert all(judged(found).values()) and len(judged(found)) == TESTS[group], [one.line() for one in found]
    # Speed has been measured, and is not judged.
    assert group != "training" or any("times the plain way" in one.name and one.state == "SEEN" for one in found)
    spoilt = run_checks(lambda _: None, [group], dry=True, planted=True)
    assert judged(spoilt) == dict.fromkeys(judged(found), False), [one.line() for one in spoilt]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def rendered_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainings, "rendered", lambda *_: data)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("rendered_once")
def test_trainings_pass() -> None:
    found = run_checks(lambda _: None, TRAINED, budget=9999, dry=True)
    assert all(judged(found).values()) and len(judged(found)) == 13, [one.line() for one in found]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("rendered_once")
def test_each_judged_line_of_a_training_fails_with_its_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(miniature, "TRAININGS", miniature.TRAININGS[1:])
    spoilt = run_checks(lambda _: None, TRAINED, budget=9999, dry=True, planted=True)
    assert [one.state for one in spoilt if one.state != "SEEN"] == 7 * ["FAIL"], [one.line() for one in spoilt]
    assert not any(one.name == "broke" for one in spoilt)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("rendered_once")
def test_two_processes_train_as_one_and_go_on_after_one_was_killed() -> None:
    found = run_checks(lambda _: None, budget=9999, dry=True, gpus=2)
    assert all(judged(found).values()) and len(judged(found)) == 9, [one.line() for one in found]


# ---- several processes, with what each line is to find ----
WHOLE = {"processes": 2, "backend": "gloo"}
LOSSES = {"stage1": [3.0, 2.0], "stage2": [2.0, 1.5, 1.4, 1.3, 1.2, 1.1]}
FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "processes": ("whole", {"processes": 1}),
    "they speak over": ("whole", {"backend": ""}),
    "stage1, first loss: 2 processes against one": ("whole", {"stage1": 0.03}),
    "stage2, first loss: 2 processes against one": ("alone", {"stage2": 0.03}),
    "stage2, mean of 6 losses: 2 processes against one": ("whole", {"stage2": 0.2}),
    "steps in the log of the one that goes on": ("again", {"steps": [1, 2, 3, 3, 4, 5]}),
    "its losses against the whole one's, on the mean": ("again", {"stage2": 1e-6}),
    "exit code where one is killed at step 5": ("killed", {"code": 0}),
}


@pytest.mark.parametrize("name", [None, *FAULTS])
def test_each_line_of_several_processes_can_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    at, change = FAULTS[name] if name else ("", {})

    def trained(_: Session, training: Any, steps: Any, which: str, *rest: Any) -> dict[str, Any]:
        own = change if which == at else {}
        losses = {stage: [loss + own.get(stage, 0.0) for loss in log] for stage, log in LOSSES.items()}
        done = own.get("steps", list(range(1, steps.stage2 + 1)))
        return {**WHOLE, **own, "losses": losses, "steps": {"stage2": done}}

    code = change.get("code", 1)
    monkeypatch.setattr(processes, "run_worker", trained)
    monkeypatch.setattr(processes, "call_worker", lambda *_: subprocess.CompletedProcess([], code, "", ""))
    session = a_session(tmp_path, gpus=2)
    processes.check(session)
    assert len(judged(session.checks)) == 9
    failed = {line for line, right in judged(session.checks).items() if not right}
    assert failed >= {name} if name else not failed


# ---- trainings ----
def test_golden_losses_are_those_of_the_steps_that_are_trained(tmp_path: Path) -> None:
    kept = json.loads(trainings.GOLDEN.read_text())
    ways = {"dry": DRY, "full": trainings.FULL}
    assert {name: (len(own["stage1"]), len(own["stage2"])) for name, own in kept.items()} == {
        name: (steps.stage1, steps.stage2) for name, steps in ways.items()
    }
    # Stage 2 begins below where stage 1 began: they are losses of a model that learns.
    assert all(own["stage2"][0] < own["stage1"][0] for own in kept.values())
    assert golden(a_session(tmp_path)) == kept["dry"]


def test_losses_of_other_steps_are_infinitely_apart() -> None:
    assert losses_apart([1.0, 2.0], [1.5, 2.0]) == (0.5, 0.25)
    assert losses_apart([1.0], [1.0, 2.0]) == losses_apart([], []) == (math.inf, math.inf)
    assert math.isnan(losses_apart([math.nan, 1.0], [1.0, 1.0])[1])


def test_a_training_that_fails_is_told_by_its_last_line_and_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def called(*_: Any) -> subprocess.CompletedProcess[str]:
        calls.append(1)
        return subprocess.CompletedProcess([], 2, "", "Traceback\n  line\nUserError: no such file\nexit\n")

    monkeypatch.setattr(trainings, "call_worker", called)
    session = a_session(tmp_path)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"^the training ended with 2: UserError: no such file$"):
            trainings.trained(session, PLAIN)
    assert len(calls) == 1


def test_a_training_that_hangs_is_stopped() -> None:
    with pytest.raises(RuntimeError, match="the training was stopped after 0 s"):
        trainings.run_bounded([sys.executable, "-c", "import signal; signal.pause()"], dict(os.environ), 0.0)


def test_a_worker_refuses_bad_input_in_one_line(tmp_path: Path) -> None:
    from mllm_eval.gpucheck import worker

    words = ["nothing.yaml", str(tmp_path / "a.json"), "--alignment=2", "--instruction=2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mllm_eval.miniature.build.build", lambda *_: None)
        assert worker.main(words) == 2
    assert not (tmp_path / "a.json").exists()


# ---- what a user types ----
def make(*words: str) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(["make", "-n", "-B", *words], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_make_hands_its_words_on() -> None:
    said = make("gpu-check", "DRY=1", "ONLY=attention", "GPUS=2", "BUDGET=200", "JSON=a.json")
    (line,) = [line for line in said.splitlines() if " check gpu" in line]
    assert " ".join(line.split()[1:]) == "check gpu --dry --only attention --gpus 2 --budget 200 --json a.json"


def test_wheels_are_fetched_in_the_pinned_versions_for_the_gpus_python() -> None:
    said = make("gpu-wheels")
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert f"transformers=={pins['transformers']} " in said and "--python-version 3.12" in said
    assert "pip wheel" in said and f"deepspeed=={pins['deepspeed']}" in said
    assert "--no-deps" in said and "--only-binary=:all:" in said
    assert "no-such-package: no version in constraints.txt" in make("gpu-wheels", "GPU_WHEELS=no-such-package")
    assert "/gpu-wheels/" in (ROOT / ".gitignore").read_text().split()


def test_the_command_starts_without_torch() -> None:
    code = "import sys; from mllm_eval.gpucheck import run; import mllm_eval.cli.gpu; print('torch' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
