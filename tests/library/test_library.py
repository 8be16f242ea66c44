"""`import mllm_eval` as a library: what its functions take and give, and the process that they leave as it was."""

from __future__ import annotations

import ast
import logging
import os
import random
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pandas as pd
import pytest
import torch
import transformers
import yaml
from own_benchmark import set_home, settle, write
from places import TINY_RECIPE
from tiny_models import make_encoder, make_image, write_colours, write_models
from typer.testing import CliRunner

import mllm_eval
from mllm_eval.adapters import load_encoder_model
from mllm_eval.catalog import Encoder, load_benchmark
from mllm_eval.cli.app import app
from mllm_eval.errors import UserError
from mllm_eval.model import assemble, load_llm_model, load_tokenizer, save_checkpoint
from mllm_eval.run import Run

SET_BY_US = (
    "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TOKENIZERS_PARALLELISM", "TRANSFORMERS_VERBOSITY", "DS_ACCELERATOR",
    "HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_TELEMETRY", "CUBLAS_WORKSPACE_CONFIG", "LRU_CACHE_CAPACITY",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "DS_LOG_LEVEL", "TRANSFORMERS_NO_ADVISORY_WARNINGS",
)  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Weights, a training set and a benchmark; the yaml of one encoder is a file, that of the other is not."""
    home = tmp_path_factory.mktemp("library")
    write_colours(home)
    write_models(home)
    (home / "benchmarks/own").mkdir(parents=True)
    write(home)
    with pytest.MonkeyPatch.context() as patch:
        settle(patch)
        set_home(patch, home)
        yield home


def recipe() -> dict[str, Any]:
    data = [{"path": "data:mine/train.jsonl", "images": "data:mine/images"}]
    return {"base": TINY_RECIPE, "name": "own", "data": "mine", "stage1": {"data": data}, "stage2": {"data": data}}


@pytest.fixture(scope="module")
def other(home: Path) -> Encoder:
    return make_encoder(home / "weights/tiny-clip", "clip")


@pytest.fixture(scope="module")
def checkpoint(home: Path, results: mllm_eval.Results) -> Path:
    """An external model: that of the run, before it was trained."""
    run = Run.of("tiny-dinov2", recipe())
    tokenizer = load_tokenizer(run.llm, run.recipe.template)
    model = assemble(run.encoder, run.recipe, load_llm_model(run.llm), tokenizer)
    save_checkpoint(model, home / "checkpoint", load_encoder_model(run.encoder))
    return home / "checkpoint"


@pytest.fixture(scope="module")
def results(home: Path) -> mllm_eval.Results:
    return mllm_eval.evaluate("tiny-dinov2", benchmarks="own", recipe=recipe(), blind=True)


@pytest.mark.slow
def test_results_are_a_frame_and_a_table(results: mllm_eval.Results) -> None:
    frame = results.scores
    assert list(frame.columns) == [
        "benchmark",
        "id",
        "prediction",
        "score",
        "parsed",
        "note",
        "group",
        "cluster",
        "stratum",
    ]
    assert len(frame) == 12 and frame.id.nunique() == 12 and set(frame.benchmark) == {"own"}
    assert frame.score.dtype == np.float64 and frame.prediction.map(type).eq(str).all()
    right = frame.prediction.str.strip() == "red"
    assert frame.score.tolist() == right.astype(float).tolist()
    assert len(results.scores_of("blind")) == 12 and results.scores_of("blind").cluster.equals(frame.cluster)
    table = results.table()
    assert [row.label for row in table.rows] == ["tiny-dinov2", "tiny-dinov2 (blind)"]
    assert table.rows[0].cells["own"].value == pytest.approx(100 * frame.score.mean())
    assert str(table).startswith("tiny-dinov2, recipe own") and "Own" in results._repr_html_()
    with pytest.raises(UserError, match="nothing scored by 'cambrian' rules \\(shuffled\\)"):
        results.scores_of("shuffled")
    with pytest.raises(UserError, match="nothing scored by 'robust'"):
        results.under("robust").table()


@pytest.mark.slow
def test_names_files_dicts_and_objects_are_one_run(results: mllm_eval.Results, home: Path) -> None:
    yaml_file = home / "configs/encoders/tiny-dinov2.yaml"
    loaded = mllm_eval.load_encoder("tiny-dinov2", device="cpu")
    own = load_benchmark("own")
    for given in (yaml_file, yaml.safe_load(yaml_file.read_text()), loaded.facts, loaded):
        again = mllm_eval.evaluate(given, benchmarks=[own], recipe=recipe())
        assert again.run.hash == results.run.hash and again.scores.equals(results.scores)
    assert mllm_eval.Results.of(mllm_eval.saved_run("tiny-dinov2")).scores.equals(results.scores)


@pytest.mark.slow
def test_a_benchmark_may_be_a_dict(results: mllm_eval.Results) -> None:
    mine = {"base": "own", "name": "mine", "title": "<Mine>", "settings": {"suffix": "Say it."}}
    found = mllm_eval.evaluate("tiny-dinov2", benchmarks=["own", mine], recipe=recipe())
    assert found.scores.groupby("benchmark").size().to_dict() == {"mine": 12, "own": 12}
    assert mllm_eval.sample_frame(mine, "mine").question[0].endswith("Say it.")
    assert mllm_eval.score(mine, {"0": "red"}, data="mine", partial=True).value == 100
    # Half of a surrogate pair, legal in JSON, is no letter, and scored as any wrong answer is.
    half = mllm_eval.score(mine, {"0": "half \ud800"}, data="mine", partial=True)
    assert half.value == 0 and half.scores["prediction"][0] == "half ?"
    assert len(results.table().columns) == 1
    # Its yaml is nowhere, so a later test could not score these answers anew.
    for path in found.run.folder.rglob("*mine*"):
        path.unlink()


@pytest.mark.slow
def test_a_comparison_has_every_difference(results: mllm_eval.Results, other: Encoder) -> None:
    found = mllm_eval.compare([results, other], benchmarks="own", recipe=recipe(), blind=True)
    (row,) = found.differences.to_dict("records")
    ours, theirs = (one.scores.score.mean() for one in found.results)
    assert (row["a"], row["b"], row["column"]) == ("tiny-dinov2", "tiny-clip", "own")
    assert row["difference"] == pytest.approx(100 * (ours - theirs)) and 0 < row["p"] <= row["holm"] <= 1
    assert row["low"] <= row["difference"] <= row["high"] and not pd.isna(row["gain"])
    assert [one.label for one in found.table().rows if not one.aside] == ["tiny-dinov2", "tiny-clip"]
    against = mllm_eval.compare([results.run, other], benchmarks="own", recipe=recipe(), baseline="tiny-dinov2")
    assert against.differences.a.tolist() == ["tiny-clip"] and "Differences to tiny-dinov2" in against._repr_html_()


@pytest.mark.slow
def test_bad_input_is_told_before_anything_is_computed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something is computed")

    monkeypatch.setattr("mllm_eval.pipeline.evaluate", refuse)
    for models, options, message in (
        ([], {}, "say what to compare"),
        ("tiny-dinov2", {}, "say what to compare"),
        ({"base": "tiny-dinov2"}, {}, "say what to compare"),
        (3, {}, "say what to compare"),
        (["tiny-dinov2", "tiny-dinov3"], {}, "unknown encoder 'tiny-dinov3'"),
        (["tiny-dinov2", 7], {}, "^int is no encoder"),
        (["tiny-dinov2"], {"benchmarks": "owm"}, "Did you mean 'own'"),
        (["tiny-dinov2"], {"benchmarks": "own", "rules": "robst"}, "no benchmark asked has rules 'robst'"),
        (["tiny-dinov2"], {"benchmarks": "own", "baseline": "mini-clip"}, "no row 'mini-clip'"),
        (["tiny-dinov2"], {"benchmarks": ["own", "own"], "subset": 0}, "leaves .* without questions"),
        (["tiny-dinov2"], {"benchmarks": "own", "subset": 2.5}, "a subset of 2.5: give a whole number"),
        (["tiny-dinov2"], {"subset": "20"}, "a subset of '20': give a whole number"),
        (["tiny-dinov2"], {"benchmarks": 3}, "^int is no benchmark"),
        (["tiny-dinov2"], {"llm": {"name": "x"}}, "the LLM given: key"),
    ):
        with pytest.raises(UserError, match=message):
            mllm_eval.compare(models, **{"recipe": recipe(), **options})  # type: ignore[arg-type]


@pytest.mark.slow
def test_an_external_model_takes_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    model = mllm_eval.external_model(tmp_path, data="mini")
    for given in ({"recipe": "mini"}, {"llm": "mini-llama"}, {"seed": 1}):
        with pytest.raises(UserError, match=f"an external model: `{next(iter(given))}` is for encoders"):
            mllm_eval.evaluate(model, **given)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="dtype 'float8' is unknown"):
        mllm_eval.external_model(tmp_path, dtype="float8")
    with pytest.raises(UserError, match=r"dtype 'torch\.float16' is unknown\. Did you mean 'float16'"):
        mllm_eval.external_model(tmp_path, dtype=torch.float16)  # type: ignore[arg-type]
    for batch in (0, 1.5, "2"):
        with pytest.raises(UserError, match=f"^batch {batch!r}: give 1 or more questions"):
            mllm_eval.external_model(tmp_path, batch=batch)  # type: ignore[arg-type]


def test_what_a_notebook_shows_is_escaped() -> None:
    from mllm_eval.report import Cell, Column, Row, Table

    bad = "<script>alert(1)</script>"
    table = Table("x", bad, (Column("k", bad, group=bad),), (Row(bad, "measured", {"k": Cell(bad, interval=bad)},
                  notes=(bad,)),), (bad,), (bad,))  # fmt: skip
    assert bad not in table._repr_html_() and table._repr_html_().count("&lt;script&gt;") == 9
    assert "<!doctype" not in table._repr_html_()


# ---- the process ----
def state() -> dict[str, Any]:
    """Everything that a call might leave behind."""
    import datasets.config

    numbers: Any = np.random.get_state()
    loggers = {
        name: one.level for name, one in logging.root.manager.loggerDict.items() if isinstance(one, logging.Logger)
    }
    hub = [
        huggingface_hub.constants.HF_HUB_OFFLINE,
        datasets.config.HF_HUB_OFFLINE,
        datasets.config.HF_DATASETS_OFFLINE,
    ]
    return {
        "environment": dict(os.environ),
        "deterministic": (torch.are_deterministic_algorithms_enabled(),
                          torch.is_deterministic_algorithms_warn_only_enabled()),
        "filled": torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        "threads": torch.get_num_threads(),
        "torch": torch.get_rng_state().tolist(),
        "numpy": (numbers[0], numbers[1].tolist(), *numbers[2:]),
        "random": random.getstate(),
        "filters": list(warnings.filters),
        "shown": warnings.showwarning,
        "root": (logging.root.level, logging.root.manager.disable),
        "levels": loggers,
        "hub": hub,
        "bars": transformers.utils.logging.is_progress_bar_enabled(),
        "precision": (torch.get_default_dtype(), torch.get_float32_matmul_precision(), torch.is_grad_enabled()),
        "distributed": torch.distributed.is_initialized(),
        "folder": os.getcwd(),
    }  # fmt: skip


def left_behind(before: dict[str, Any]) -> dict[str, Any]:
    """What differs; a logger that came with an import is no change."""
    after = state()
    after["levels"] = {name: level for name, level in after["levels"].items() if name in before["levels"]}
    return {key: (before[key], after[key]) for key in before if before[key] != after[key]}


@pytest.fixture
def users(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process with settings of its user's own: online, seeded, two threads more, and talkative."""
    import datasets.config

    for name in SET_BY_US:
        monkeypatch.delenv(name, raising=False)
    for module in (huggingface_hub.constants, datasets.config):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", False)
    threads, level = torch.get_num_threads(), transformers.logging.get_verbosity()
    torch.set_num_threads(threads + 2)
    transformers.logging.set_verbosity_info()
    transformers.logging.enable_progress_bar()
    torch.manual_seed(11)
    np.random.seed(12)
    random.seed(13)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="of the user's own")
        yield
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity(level)


def again(home: Path) -> Run:
    """The run with its answers and scores to make again."""
    run = Run.of("tiny-dinov2", recipe())
    for path in (run.folder / "answers", run.folder / "scores"):
        for file in path.glob("own.*"):
            file.unlink()
    return run


def command(home: Path) -> None:
    path = home / "own.yaml"
    path.write_text(yaml.safe_dump(recipe()))
    again(home)
    done = CliRunner().invoke(app, ["eval", "tiny-dinov2", "--recipe", str(path), "--benchmarks", "own"])
    if done.exit_code == 2:
        raise UserError(done.output)
    assert done.exit_code == 0 and "Own" in done.output, done.output


def external(home: Path) -> None:
    mllm_eval.evaluate(mllm_eval.external_model(home / "checkpoint", data="mine"), benchmarks="own")


CALLS: dict[str, Callable[[Path], Any]] = {
    "load_encoder": lambda home: mllm_eval.load_encoder("tiny-dinov2"),
    "encode": lambda home: mllm_eval.load_encoder("tiny-dinov2").encode([make_image(1)]),
    "train and evaluate": lambda home: mllm_eval.evaluate("tiny-dinov2", benchmarks="own", recipe=recipe(), seed=77),
    "evaluate": lambda home: (again(home), mllm_eval.evaluate("tiny-dinov2", benchmarks="own", recipe=recipe())),
    "train_run": lambda home: mllm_eval.train_run("tiny-dinov2", recipe(), seed=78),
    "score_run": lambda home: mllm_eval.score_run(Run.of("tiny-dinov2", recipe())),
    "compare": lambda home: mllm_eval.compare(["tiny-dinov2"], benchmarks="own", recipe=recipe()).differences,
    "score": lambda home: mllm_eval.score("own", {"0": "red"}, data="mine", partial=True),
    "sample_frame": lambda home: mllm_eval.sample_frame("own", "mine"),
    "external": external,
    "command": command,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_a_call_leaves_the_process_as_it_was(name: str, home: Path, checkpoint: Path, users: None) -> None:
    again(home) if name == "command" else None
    before = state()
    CALLS[name](home)
    assert left_behind(before) == {}


FAULTS = {
    "load_encoder": "mllm_eval.library.frozen.load_encoder_model",
    "encode": "mllm_eval.adapters.base.EncoderModel.forward",
    "train and evaluate": "mllm_eval.train.stages.encode",
    "evaluate": "mllm_eval.pipeline.inference.answer_tasks",
    "train_run": "mllm_eval.train.stages.train_stage",
    "score_run": "mllm_eval.pipeline.flow.score_answers",
    "compare": "mllm_eval.pipeline.evaluate",
    "score": "mllm_eval.score.frames.score_lines",
    "sample_frame": "mllm_eval.score.frames.load_samples",
    "command": "mllm_eval.pipeline.inference.answer_tasks",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_a_call_that_raises_leaves_it_too(
    name: str, home: Path, users: None, results: mllm_eval.Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        """Set what a library might, and raise."""
        os.environ["LEFT_BEHIND"] = "1"
        torch.manual_seed(1)
        logging.getLogger("transformers").setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore")
        raise UserError("own: a fault in the middle")

    calls = {
        **CALLS,
        "train and evaluate": lambda home: mllm_eval.evaluate(
            "tiny-dinov2", recipe=recipe(), seed=79, benchmarks="own"
        ),
        "train_run": lambda home: mllm_eval.train_run("tiny-dinov2", recipe(), seed=80),
    }
    if name == "score_run":
        # A call that failed before this one may have left the run without its answers.
        CALLS["evaluate"](home)
    monkeypatch.setattr(FAULTS[name], fail)
    before = state()
    with pytest.raises(UserError, match="in the middle"):
        calls[name](home)
    assert left_behind(before) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "call",
    [
        lambda: mllm_eval.probe("tiny-dinov2", "in1k_linear", data="nowhere"),
        lambda: mllm_eval.align("tiny-dinov2", "no-such-llm"),
        lambda: mllm_eval.check_leaks("mini", ["own"], "nowhere"),
        lambda: mllm_eval.check_leaks(Path("nowhere"), ["own"], "mine", "tiny-dinov2"),
    ],
    ids=["probe", "align", "check_leaks of a recipe", "check_leaks of a folder"],
)
def test_what_measures_without_questions_leaves_it_too(call: Callable[[], Any], home: Path, users: None) -> None:
    before = state()
    with pytest.raises(UserError, match=r"nowhere|no-such-llm"):
        call()
    assert left_behind(before) == {}


FIRST = """
import logging, os, random, sys, warnings
random.seed(3)
def now():
    return dict(os.environ), random.getstate(), list(warnings.filters), warnings.showwarning, logging.root.level
before = now()
import mllm_eval
run = mllm_eval.evaluate("tiny-dinov2", benchmarks="own", recipe={recipe!r}, seed=81)
assert not (left := [(one, was) for one, was in zip(now(), before) if one != was]), left
import datasets.config, huggingface_hub.constants, huggingface_hub.utils, torch, transformers
said = {{
    "offline": [huggingface_hub.constants.HF_HUB_OFFLINE, huggingface_hub.is_offline_mode(),
                datasets.config.HF_HUB_OFFLINE],
    "deterministic": torch.are_deterministic_algorithms_enabled(),
    "threads": torch.get_num_threads() == int(sys.argv[1]),
    "seeded": torch.initial_seed() in (0, 81),
    "verbosity": transformers.logging.get_verbosity(),
    "bars": [transformers.utils.logging.is_progress_bar_enabled(),
             not huggingface_hub.utils.are_progress_bars_disabled()],
}}
print(said)
"""


@pytest.mark.slow
def test_libraries_that_a_call_imported_are_as_their_user_would_have_them(home: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in SET_BY_US}
    code, threads = FIRST.format(recipe=recipe()), str(torch.get_num_threads())
    environment["OMP_NUM_THREADS"] = threads
    done = subprocess.run([sys.executable, "-c", code, threads], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ast.literal_eval(done.stdout) == {
        "offline": [False] * 3, "deterministic": False, "threads": True, "seeded": False, "verbosity": logging.WARNING,
        "bars": [True, True],
    }  # fmt: skip


def test_within_a_call_there_is_no_network(home: Path, users: None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def look(*_: object, **__: object) -> None:
        seen.append((huggingface_hub.constants.HF_HUB_OFFLINE, os.environ["HF_HUB_OFFLINE"]))
        raise UserError("seen")

    monkeypatch.setattr("mllm_eval.library.frozen.load_encoder_model", look)
    with pytest.raises(UserError, match="seen"):
        mllm_eval.load_encoder("tiny-dinov2")
    assert seen == [(True, "1")]


@pytest.mark.slow
def test_everything_named_is_there() -> None:
    for name in mllm_eval.__all__:
        assert callable(getattr(mllm_eval, name)), name


@pytest.mark.slow
def test_an_option_that_there_is_none_of_is_refused_as_python_does() -> None:
    with pytest.raises(TypeError, match=r"evaluate\(\) got an unexpected keyword argument 'benchmark'"):
        mllm_eval.evaluate("mini-dino", benchmark="mme")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"compare\(\) got an unexpected keyword argument 'variants'"):
        mllm_eval.compare(["mini-dino"], variants=["all"])  # type: ignore[call-arg]
