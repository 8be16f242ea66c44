"""A whole flow with the network forbidden and logins in the environment: nothing calls out, nothing is written down."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mllm_eval import environment
from mllm_eval.storage import PACKAGE

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "security.md"
SECRETS = {
    "HF_TOKEN": "hf_planted0login0of0the0hub",
    "HUGGING_FACE_HUB_TOKEN": "hf_planted0older0login",
    "AWS_ACCESS_KEY_ID": "AKIAPLANTED0KEY0ID",
    "AWS_SECRET_ACCESS_KEY": "planted/aws/secret/0123456789",
    "AWS_SESSION_TOKEN": "planted-aws-session-token",
    "WANDB_API_KEY": "planted0wandb0key0fedcba",
    "OPENAI_API_KEY": "sk-planted-openai-key",
    "GITHUB_TOKEN": "ghp_planted0github0token",
    "SOME_PASSWORD": "planted-pass-word-of-anything",
}
# Whoever reaches for the network, in Python or below it by a name's address, ends the program.
FLOW = """
import contextlib, json, os, sys
from pathlib import Path

asked, started = [], []

def forbid(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind"):
        asked.append(f"{event} {arguments[-1]}")
        raise PermissionError(f"the network is forbidden: {asked[-1]}")
    if event == "subprocess.Popen":
        started.append(list(arguments[1]) if not isinstance(arguments[1], str) else arguments[1])
    if event in ("os.system",):
        started.append(str(arguments))

sys.addaudithook(forbid)
home = Path(sys.argv[1])
from tiny_models import write_colours, write_models
write_colours(home)
write_models(home)
from mllm_eval.cli.app import app

def call(*words):
    try:
        app(list(words))
    except SystemExit as ended:
        assert not ended.code, (words, ended.code)

call("eval", "tiny-dinov2", "--recipe", str(home / "configs/recipes/own.yaml"), "--benchmarks", "own", "--blind")
call("ls")
call("show", "tiny-dinov2")
call("table", "--details")
call("report")
json.dump({"asked": asked, "started": started}, open(home / "told.json", "w"))
"""
BENCHMARK = {
    "name": "own", "title": "Own", "category": "general", "chance": 25,
    "data": {"mine": {"repo": "mine", "split": "test", "path": "questions.csv", "image_files": "images/{image}"}},
    "columns": {"image": "string", "question": "string", "answer": "string"},
    "reader": "mllm_eval.data.readers:question", "settings": {"suffix": "Answer in a word."},
    "generation": {"max_new_tokens": 4}, "rules": {"cambrian": {"version": 1}, "robust": {"version": 1}},
}  # fmt: skip
SCORER = """
NEEDS = {"answer": "string"}


def exact(record, prediction):
    return float(prediction.strip() == record["answer"]), prediction.strip() or None, ""


def report(rules, rows):
    return {"accuracy": 100 * sum(score for _, score in rows) / len(rows)}


RULES = {"cambrian": exact, "robust": exact}
"""


@pytest.fixture(scope="module")
def flowed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of all that a whole flow has written, and what it printed."""
    home = tmp_path_factory.mktemp("flow")
    data = [{"path": "data:mine/train.jsonl", "images": "data:mine/images"}]
    recipe = {"base": str(TESTS / "recipes/tiny.yaml"), "name": "own", "data": "mine", "stage1": {"data": data},
              "stage2": {"data": data}}  # fmt: skip
    (home / "configs/recipes").mkdir(parents=True)
    (home / "configs/recipes/own.yaml").write_text(yaml.safe_dump(recipe))
    (home / "benchmarks/own").mkdir(parents=True)
    (home / "benchmarks/own/benchmark.yaml").write_text(yaml.safe_dump(BENCHMARK))
    (home / "benchmarks/own/own.py").write_text(SCORER)
    (home / "data/mine").mkdir(parents=True)
    rows = [f"{number % 6}.png,What is {number}?,red" for number in range(12)]
    (home / "data/mine/questions.csv").write_text("\n".join(["image,question,answer", *rows]) + "\n")
    own = {"MLLM_EVAL_DATA": str(home / "data"), "MLLM_EVAL_RESULTS": str(home / "results"),
           "MLLM_EVAL_PATH": str(home), "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), str(TESTS)]),
           "HOME": str(home / "home"), "OMP_NUM_THREADS": "1"}  # fmt: skip
    # Nothing here says that the hub is offline: that is this project's own doing.
    left = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_", "MLLM_"))}
    words, environ = [sys.executable, "-c", FLOW, str(home)], {**left, **own, **SECRETS}
    done = subprocess.run(words, env=environ, capture_output=True, text=True, cwd=home, check=False)
    return home, done


@pytest.mark.slow
def test_a_whole_flow_needs_no_network(flowed: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    home, done = flowed
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads((home / "told.json").read_text())
    assert told["asked"] == []
    # Programs are started by lists of words: what tells of the machine, the checkout and the fonts of figures.
    assert all(isinstance(words, list) for words in told["started"])
    known = {"git", "nvidia-smi", "uname", "lscpu", "fc-list", "ldconfig", "gcc", "cc", "ld"}
    assert {Path(words[0]).name for words in told["started"]} <= known
    assert (home / "results/report/index.html").is_file()


@pytest.mark.slow
def test_no_login_is_written_down(flowed: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    home, done = flowed
    texts = {"stdout": done.stdout.encode(), "stderr": done.stderr.encode()}
    texts |= {str(path): path.read_bytes() for path in home.rglob("*") if path.is_file()}
    assert any(name.endswith("manifest.json") for name in texts) and any("/report/" in name for name in texts)
    found = [(name, key) for name, text in texts.items() for key, value in SECRETS.items() if value.encode() in text]
    assert found == []


def test_what_a_record_says_of_the_environment_is_a_list_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    said = environment.describe()
    assert set(said) == {"time", "python", "platform", "cpu", "threads", "gpus", "git", "packages"}
    assert not any(value in str(said) for value in SECRETS.values())


def test_the_network_really_is_forbidden_in_that_flow(tmp_path: Path) -> None:
    code = FLOW.partition("home = Path")[0] + "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9/')\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode and "the network is forbidden" in done.stderr


def test_the_page_names_every_command_that_fetches() -> None:
    fetching = {"provide_weights", "provide_benchmarks", "provide_probes", "fetch_pairs"}
    commands = {
        path.name
        for path in (PACKAGE / "cli").glob("*.py")
        if fetching & set(re.findall(r"\w+", path.read_text(encoding="utf-8")))
    }
    # `data` and `weights`; `new encoder`; `align --fetch`. A name in another file belongs on the page.
    assert commands == {"fetching.py", "creating.py", "aligning.py"}
    # Nothing else calls the downloader than what these names lead to.
    callers = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if "mllm_eval.hub.fetch" in path.read_text(encoding="utf-8") and "hub" not in path.relative_to(PACKAGE).parts
    }
    assert callers == {"alignment/pairs.py", "data/locking.py", "pipeline/provision.py", "probes/locking.py"}
    row = next(line for line in PAGE.read_text(encoding="utf-8").splitlines() if "| nothing phones home |" in line)
    assert re.findall(r"`([^`]+)`", row.split("|")[2]) == ["data", "weights", "new encoder owner/name", "align --fetch"]
