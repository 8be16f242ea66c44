"""The command line: quick to start, clear about mistakes, and what make calls."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import pytest
from places import ROOT
from typer.main import get_command
from typer.testing import CliRunner, Result

from mllm_eval import pipeline
from mllm_eval.catalog import Kind, load_encoder, load_llm, load_recipe, names
from mllm_eval.catalog.folders import find
from mllm_eval.catalog.variant import BLIND, DEFAULT
from mllm_eval.cli.app import app
from mllm_eval.errors import UserError
from mllm_eval.pipeline.ledger import Ledger
from mllm_eval.pipeline.progressbar import Lines, spoken
from mllm_eval.pipeline.reporter import Silent
from mllm_eval.pipeline.sources import provide
from mllm_eval.results import read_timings
from mllm_eval.run import Run
from mllm_eval.storage import data_home, write_json

COMMANDS = sorted(get_command(app).commands)  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path / "data"))
    return tmp_path


def call(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def make(*words: str) -> list[str]:
    # Under `make test` this make would take itself for a part of that one, and say so.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(["make", *words], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def made_run() -> Run:
    digests = {"encoder": "e" * 64, "llm": "f" * 64}
    run = Run(load_encoder("mini-dino"), load_recipe("mini"), load_llm("mini-llama"), 0, digests)
    run.prepare()
    return run


@pytest.mark.parametrize("command", ["prompt", "score"])
def test_a_variant_that_is_not_named_is_the_default_one(command: str) -> None:
    (variant,) = (one for one in get_command(app).commands[command].params if one.name == "variant")  # type: ignore[attr-defined]
    assert variant.default == DEFAULT.name


def test_help_imports_nothing_heavy() -> None:
    heavy = [
        "torch",
        "transformers",
        "pandas",
        "numpy",
        "pydantic",
        "rich",
        "datasets",
        "evaluate",
        "scipy",
        "pyarrow",
    ]
    code = (
        "import sys\n"
        "sys.argv = ['mllm-eval', '--help']\n"
        "from mllm_eval.cli import main\n"
        "try: main()\n"
        f"finally: print([name for name in {heavy} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "mllm-eval compare" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    shown = call(command, "--help")
    assert shown.exit_code == 0
    assert command == "miniature" or f"    mllm-eval {command}" in shown.output
    assert command in call("--help").output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval", "mini-dinno"], "unknown encoder 'mini-dinno'. Did you mean 'mini-dino'?"),
        (["eval", "mini-dino", "--recipe", "minni"], "unknown recipe 'minni'. Did you mean 'mini'?"),
        (["eval", "mini-dino", "--llm", "mini-lama"], "unknown LLM 'mini-lama'. Did you mean 'mini-llama'?"),
        (["compare", "mini-dino,mini-clp"], "Did you mean 'mini-clip'?"),
        (["show", "nothing"], "no run 'nothing'"),
        (["table"], "no runs under"),
        (["ls", "encoder"], "can't list 'encoder'. Did you mean 'encoders'?"),
        (["check", "mini-dinno"], "Did you mean 'mini-dino'?"),
        (["align", "mini-dino", "--llm", "mini-lama"], "Did you mean 'mini-llama'?"),
        *((["stats", name], "no scored runs under") for name in ("seeds", "subset")),
        *((["score", *words], f"{words[0]} goes with --answers")
          for words in (["--rules", "robust"], ["--out", "x"], ["--partial"], ["--format", "cambrian"], ["--json"],
                        ["--data", "hub"], ["--variant", "blind"])),
        (["check", "mini-dino", "--samples", "2"], "--samples goes with --determinism"),
        (["table", "--whole"], "--whole goes with --subset"),
        (["table", "--leaked", "both"], "--leaked goes with --leaks"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_exit_code_2(words: list[str], message: str) -> None:
    shown = call(*words)
    assert shown.exit_code == 2
    assert shown.stderr.startswith("mllm-eval: ")
    assert message in shown.stderr
    assert shown.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "partner"),
    [
        *((["mini-dino", *own], "--model") for own in (["--data", "hub"], ["--dtype", "float16"], ["--batch", "1"])),
        *((["--model", "vlm", *own], "an encoder")
          for own in (["--recipe", "desk"], ["--llm", "mini-llama"], ["--seed", "0"], ["--server", "http://a"])),
    ],
)  # fmt: skip
def test_eval_ignores_no_option(words: list[str], partner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise AssertionError("it is evaluated")

    monkeypatch.setattr(pipeline, "evaluate", stop)
    shown = call("eval", *words)
    assert shown.exit_code == 2 and shown.stderr == f"mllm-eval: {words[-2]} goes with {partner}\n"


def test_usage_errors_exit_with_2_too() -> None:
    assert call("eval").exit_code == 2
    unknown = call("evil")
    assert unknown.exit_code == 2
    assert "Did you mean 'eval'?" in unknown.stderr


def test_an_unknown_name_is_told_before_anything_is_made(homes: Path) -> None:
    call("eval", "mini-dinno")
    call("compare", "mini-dinno,mini-dino")
    call("align", "mini-dino,mini-dinno")
    call("align", "mini-dino", "--llm", "mini-lama")
    call("probe", "mini-dino", "--probe", "in1k_knn", "--layers", "9")
    call("leaks", "mini", "--alarm", "5")
    call("leaks", "mini", "--against", str(homes), "--alarm", "5")
    assert not (homes / "results").exists()
    assert not (homes / "data").exists()


@pytest.mark.slow
def test_ctrl_c_says_that_it_can_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "evaluate", stop)
    shown = call("eval", "mini-dino")
    assert shown.exit_code == 130
    assert "the same command goes on" in shown.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "words"), [("MLLM_EVAL_RESULTS", ["report"]), ("MLLM_EVAL_DATA", ["leaks", "mini"])]
)
@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_home_that_is_no_folder_is_told_in_one_line(
    homes: Path, monkeypatch: pytest.MonkeyPatch, variable: str, words: list[str], kind: str
) -> None:
    place = homes / "home"
    if kind == "link":
        place.symlink_to(homes / "not mounted")
    else:
        place.touch()
    monkeypatch.setenv(variable, str(place))
    shown = call(*words)
    assert shown.exit_code == 2 and isinstance(shown.exception, SystemExit)
    assert (
        str(place) in shown.stderr and "stands where a folder should" in shown.stderr and shown.stderr.count("\n") == 1
    )


def test_faults_of_the_code_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(pipeline, "evaluate", fail)
    assert isinstance(call("eval", "mini-dino").exception, ZeroDivisionError)


def test_eval_hands_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def evaluate(encoder: object, recipe: object, llm: object, seed: object, *_: object, **options: object) -> None:
        seen.extend([encoder, getattr(recipe, "name", recipe), llm, seed, options])
        raise UserError("enough")

    monkeypatch.setattr(pipeline, "evaluate", evaluate)
    asked = ("--recipe", "lora", "--llm", "mini-llama", "--seed", "3", "--benchmarks", "mme, gqa,", "--blind")
    call("eval", "mini-dino", *asked)
    *named, options = seen
    assert named == ["mini-dino", "lora", "mini-llama", 3] and isinstance(options, dict)
    assert [one if isinstance(one, str) else one.name for one in options["benchmarks"]] == ["mme", "gqa"]
    assert options["blind"] is True


@pytest.mark.slow
def test_lists() -> None:
    assert call("ls", "encoders").output.split() == sorted(call("ls", "encoders").output.split())
    assert {"mini-clip", "mini-dino", "mini-random"} <= set(call("ls", "encoders").output.split())
    assert "mini" in call("ls", "recipes").output.split()
    assert "mini-dino" in call("encoders").output
    assert "no runs" in call("ls").stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_kind_whose_names_a_message_offers_to_list_is_listed(kind: Kind) -> None:
    with pytest.raises(UserError, match=f"`mllm-eval ls {kind}` lists all"):
        find(kind, "nothing")
    assert call("ls", kind).stdout.split() == names(kind) != []


@pytest.mark.slow
def test_ls_and_show_tell_how_far_a_run_is_and_what_it_cost() -> None:
    run = made_run()
    assert f"{run.hash}  mini-dino-mini-s0" in call("ls").output
    assert "begun" in call("ls").output
    with Ledger(run.folder, Silent()).step("training"):
        pass
    run.answers_path("mme").parent.mkdir()
    run.answers_path("mme").touch()
    run.answers_path("mme", BLIND).touch()
    summary = {"benchmark": "mme", "rules": "cambrian", "variant": "default", "value": 812.5, "chance": 750.0}
    counts = {"n": 60, "n_failed": 1, "n_unparsed": 2, "protocol": "mme@cambrian.v1", "protocol_hash": "x"}
    write_json(run.summary_path("mme", "cambrian"), {**summary, **counts})
    assert "answered 1 benchmarks (+1 variants), 1 samples failed" in call("ls").output
    shown = call("show", "mini-dino").output
    for part in (run.hash, "812.5", "cambrian rules, default", " v1 ", "assumed stage1.warmup", "training", "in all"):
        assert part in shown


@pytest.mark.slow
def test_show_takes_every_name_that_ls_prints() -> None:
    run, other = (
        made_run(),
        Run(load_encoder("mini-dino"), load_recipe("mini"), load_llm("mini-llama"), 1, {"encoder": "e", "llm": "f"}),
    )
    other.prepare()
    for line, one in zip(call("ls").stdout.splitlines(), sorted([run, other], key=lambda one: one.name), strict=True):
        for name in line.split()[:2]:
            assert call("show", name).stdout.splitlines()[0] == one.name
    assert "is 2 runs" in call("show", "mini-dino").stderr
    assert "no run of encoder 'mini-clip'" in call("show", "mini-clip").stderr
    assert "Did you mean 'mini-dino-mini-s" in call("show", "mini-dino-mini-so").stderr


@pytest.mark.slow
def test_prompt_shows_the_template_of_the_recipe(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    record = {"question_id": "a", "question": "Is it red?", "answer": "Yes", "category": "color"}
    rows.write_text(json.dumps({"record": record}) + "\n")

    def prompt(*words: str) -> str:
        done = call("prompt", "mme", "--records", str(rows), *words)
        assert done.exit_code == 0, done.output
        found: str = json.loads(done.stdout)["prompt"]
        return found

    templates = {name: load_recipe(name).template for name in ("mini", "webssl-paper")}
    assert templates["mini"] != templates["webssl-paper"]
    for name, template in templates.items():
        assert prompt("--recipe", name) == prompt("--template", template)
    assert prompt() == prompt("--recipe", "mini") != prompt("--recipe", "webssl-paper")
    assert prompt("--recipe", "mini", "--template", "vicuna_v1").startswith("A chat between")
    assert "Did you mean 'mini'?" in call("prompt", "mme", "--recipe", "minni").stderr


@pytest.mark.slow
def test_data_of_the_working_directory_is_named_where_it_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLLM_EVAL_DATA")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such data") as missing:
        provide([data_home() / "mine"], Silent())
    assert "export" not in str(missing.value)
    (tmp_path / "data/mine").mkdir(parents=True)
    with pytest.raises(UserError, match=f"export MLLM_EVAL_DATA={tmp_path / 'data'}$"):
        provide([data_home() / "mine"], Silent())
    assert "~/.cache/mllm_eval" in call("--help").output


def test_a_ledger_survives_a_line_that_was_cut_off(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, Silent())
    with ledger.step("one", samples=3):
        pass
    with open(tmp_path / "ledger.jsonl", "ab") as file:
        file.write(b'{"step": "tw')
    with ledger.step("three"):
        pass
    with pytest.raises(ZeroDivisionError), ledger.step("four"):
        raise ZeroDivisionError
    first, third = read_timings(tmp_path)
    assert (first.title, first.amounts, third.title) == ("one", (("samples", 3),), "three")


def test_time_left_counts_from_where_this_run_began(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.0, 30.0])
    monkeypatch.setattr("mllm_eval.pipeline.progressbar.time.monotonic", lambda: next(clock, 30.0))
    with Lines().step("training") as progress:
        progress(800, 1000)
        progress(850, 1000)
    assert "training: 85 %, about 1 min 30 s left" in capsys.readouterr().err


def test_time_left_follows_a_pace_that_changes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fast beginning (100 units in each 30 s, then 1) is forgotten."""
    now = 0.0
    monkeypatch.setattr("mllm_eval.pipeline.progressbar.time.monotonic", lambda: now)
    with Lines().step("training") as progress:
        for done in (*range(0, 1000, 100), *range(1000, 1031)):
            progress(done, 1130)
            now += 30
    assert "training: 91 %, about 50 min 0 s left" in capsys.readouterr().err


def test_plain_progress_is_a_line_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    with Lines().step("answers: mme") as progress:
        progress(1, 2)
        progress(2, 2)
    assert [line.split()[:2] for line in capsys.readouterr().err.splitlines()] == [["answers:", "mme"]]


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.21, "3.2 s"), (59.94, "59.9 s"), (250, "4 min 10 s"), (7500, "2 h 5 min")]
)
def test_times_for_people(seconds: float, text: str) -> None:
    assert spoken(seconds) == text


@pytest.mark.parametrize(
    ("target", "call_"),
    [
        (
            ["eval", "ENCODER=a", "SEED=1", "BENCHMARKS=mme,gqa", "BLIND=1"],
            "eval a --seed 1 --benchmarks mme,gqa --blind",
        ),
        (["eval", "ENCODER=a", "RECIPE=r", "LLM=l"], "eval a --recipe r --llm l"),
        (["eval", "MODEL=m", "DATA=mini", "BENCHMARKS=mme"], "eval --model m --data mini --benchmarks mme"),
        (["plan", "ENCODER=a", "RECIPE=r", "GPUS=8xH100"], "plan a --recipe r --gpus 8xH100"),
        (["weights", "ENCODER=a", "LLM=l", "OFFLINE=1"], "weights a --llm l --offline"),
        (["export", "RUNS=a", "TO=b"], "export a --to b"),
        (["compare", "ENCODERS=a,b,c"], "compare a,b,c"),
        (["train", "ENCODER=a", "BLIND=1"], "train a"),
        (["score", "RUNS=a"], "score a"),
        (["score", "BENCHMARK=mme", "ANSWERS=x.jsonl"], "score mme --answers x.jsonl"),
        (["score", "BENCHMARK=mme", "ANSWERS=x.jsonl", "ROW=vlm"], "score mme --answers x.jsonl --as vlm"),
        (["table", "RUNS=a,b", "RULES=robust"], "table --runs a,b --rules robust"),
        (["table", "TABLE=sota"], "table sota"),
        (["check", "ENCODER=a"], "check a"),
        (["data"], "data"),
        (["mini-weights"], "miniature weights"),
        (["bench"], "bench"),
    ],
)
def test_make_calls_the_command_line(target: list[str], call_: str) -> None:
    assert " ".join(make("-n", *target)[-1].split()) == f".venv/bin/mllm-eval {call_}"


def installs(*words: str) -> str:
    """What setting up would run, in one text; `-B` plans it though `.venv` may be there."""
    return "\n".join(make("-n", "-B", "setup", *words))


def test_setup_takes_torch_from_pips_own_index_unless_told() -> None:
    plain = installs()
    assert "torch: from pip's own index; PyPI's build for Linux has CUDA" in plain and "TORCH_INDEX=cpu" in plain
    assert "--index-url" not in plain and plain.count("pip install") == 1 and "python3 -m venv" in plain
    assert "python3.12 -m venv" in installs("PYTHON=python3.12")


@pytest.mark.parametrize(
    ("index", "address"),
    [
        ("cpu", "https://download.pytorch.org/whl/cpu"),
        ("cu128", "https://download.pytorch.org/whl/cu128"),
        ("https://mirror.example/cpu", "https://mirror.example/cpu"),
        ("/mirror/simple", "/mirror/simple"),
    ],
)
def test_setup_takes_torch_alone_from_another_index(index: str, address: str) -> None:
    planned = installs(f"TORCH_INDEX={index}")
    first, second = (line for line in planned.splitlines() if "pip install" in line)
    # Nothing but torch, in the pinned version, and no other build in its place.
    assert f"-c constraints.txt --quiet --no-deps --index-url {address} torch ||" in first and "exit 2" in first
    assert "--index-url" not in second and "-e " in second
    assert f"torch: from {address}" in planned


def test_setup_says_which_torch_is_there() -> None:
    said = make("-n", "-B", "setup")
    assert any("TORCH_SAID" in line for line in said)
    text = re.search(r"^define TORCH_SAID\n(.*?)^endef", (ROOT / "Makefile").read_text(), re.MULTILINE | re.DOTALL)
    assert text is not None
    done = subprocess.run([sys.executable, "-c", text[1]], capture_output=True, text=True, check=True)
    assert re.fullmatch(rf"torch {re.escape(version('torch'))} with(out)? CUDA.*\n", done.stdout)


def test_make_help_lists_every_target() -> None:
    phony = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY"))
    assert {line.split()[1] for line in make()} == set(phony.split()[1:])


def test_make_align_takes_the_options_of_the_command() -> None:
    planned = make("-n", "align", "ENCODER=mini-dino", "METRIC=cka", "PERMUTATIONS=0", "LLM=mini-llama")[-1].split()
    assert planned[1:] == ["align", "mini-dino", "--llm", "mini-llama", "--metric", "cka", "--permutations", "0"]


@pytest.mark.slow
def test_the_module_can_be_run() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "mllm_eval", "ls", "llms"], env=env, capture_output=True, text=True, check=True
    )
    assert "mini-llama" in done.stdout.split()
