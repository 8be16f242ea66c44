"""Checkpoints that nobody planned: before a process is ended, and when the last one is long ago."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace

import pytest
import torch
from tiny_models import make_conversations, make_encoder, make_llm, make_recipe

from mllm_eval.run import Run
from mllm_eval.train import notice, train
from mllm_eval.train.notice import SIGNALS, Checkpoints, Notice
from mllm_eval.train.stageprogress import latest_whole


@pytest.fixture
def handlers() -> Iterator[None]:
    """The test may set handlers of signals."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.slow
def test_a_signal_is_obeyed_when_the_step_at_hand_is_kept(
    tmp_path: Path, handlers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended(Exception):
        pass

    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    # The schedule asks for no checkpoint before the last step.
    monkeypatch.setattr("mllm_eval.train.trainer.FEWEST_STEPS", 9)
    data, images = make_conversations(tmp_path / "data")
    recipe = make_recipe(data, images, stage1={"steps": 9})
    run = Run(make_encoder(tmp_path / "encoder"), recipe, make_llm(tmp_path / "llm"), 3)
    stage = run.stage_dir(1)
    told: list[int] = []
    obeyed: list[tuple[int, str]] = []

    def obey(number: int, _: FrameType | None) -> None:
        kept = latest_whole(stage / "checkpoints")
        obeyed.append((number, kept.name if kept else ""))
        if number == signal.SIGUSR2:
            raise Ended

    for number in SIGNALS:
        signal.signal(number, obey)

    def progress(*_: int) -> None:
        log = stage / "log.jsonl"
        step = len(log.read_text().splitlines()) if log.is_file() else 0
        come = {2: signal.SIGTERM, 5: signal.SIGUSR2}.get(step)
        if come is not None and come not in told:
            told.append(come)
            os.kill(os.getpid(), come)

    with pytest.raises(Ended):
        train(run, progress)
    # Told at the end of step 2, when that was not to be kept any more, it is kept at the end of step 3.
    assert obeyed == [(signal.SIGTERM, "checkpoint-3"), (signal.SIGUSR2, "checkpoint-6")]
    assert signal.getsignal(signal.SIGTERM) is obey


def test_when_the_last_checkpoint_is_long_ago_the_next_step_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(notice, "monotonic", lambda: now)
    callback = Checkpoints(Notice(), torch.device("cpu"))
    state = SimpleNamespace(is_world_process_zero=True)
    saved = []
    for now in (600.0, 1200.0, 1900.0, 2500.0, 3600.0, 3800.0):
        control = SimpleNamespace(should_save=False)
        callback.on_step_end(None, state, control)
        if control.should_save:
            saved.append(now)
            callback.on_save(None, state, control)
    assert saved == [1900.0, 3800.0] and callback.agreed == 0


def test_outside_the_main_thread_nothing_is_noted() -> None:
    from concurrent.futures import ThreadPoolExecutor

    def noting() -> bool:
        before = signal.getsignal(signal.SIGTERM)
        with Notice():
            return signal.getsignal(signal.SIGTERM) is before

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(noting).result()
