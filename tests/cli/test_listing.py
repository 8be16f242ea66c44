"""`mllm-eval encoders`: every fact of every encoder, without torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from mllm_eval.catalog import load_encoder, names
from mllm_eval.cli.app import app


def listed(*words: str) -> str:
    done = CliRunner().invoke(app, ["encoders", *words])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.slow
def test_json_has_every_encoder_with_its_facts() -> None:
    found = {one["name"]: one for one in map(json.loads, listed("--json").splitlines())}
    assert list(found) == names("encoders")
    one = found["webssl-dino2b-light2b-224"]
    assert one["repo"] == "facebook/webssl-dino2b-light2b-224" and len(one["revision"]) == 40
    assert (one["params"], one["tokens"], one["grid"], one["pixels"]) == (2084237568, 256, 16, 224)
    assert one["architecture"] == {"heads": 21, "ffn": "swiglu", "hidden": 7168, "native": 224}
    assert one["published"][0] == "Table 13: Web-DINO ViT-2B (filter light (50.3%))"
    assert found["metaclip-g-224"]["url"].endswith("G14_fullcc2.5b.pt")
    assert found["mini-dino"]["architecture"] is None


@pytest.mark.slow
def test_the_table_has_a_whole_line_for_each_encoder_when_piped() -> None:
    lines = listed().splitlines()
    assert len(lines) == len(names("encoders")) + 1
    line = next(line for line in lines if line.startswith("siglip2-so400m-384 "))
    cells = ["siglip", "428.2 M", "14", "384", "729", "1152", "27", "WebLI", "45B", "language"]
    assert re.split(r"  +", line.rstrip())[1:] == [*cells, "google/siglip2-so400m-patch14-384", "Table 14, 3"]
    study = next(line for line in lines if line.startswith("openai-clip-l-336"))
    assert study.rstrip().endswith("Cambrian study")


def named(*words: str) -> list[str]:
    return [json.loads(line)["name"] for line in listed("--json", *words).splitlines()]


@pytest.mark.slow
def test_the_list_is_filtered_by_facts_and_sorted_by_one() -> None:
    found = [load_encoder(name) for name in names("encoders")]
    small = [one for one in found if one.facts.supervision == "self" and one.params <= 90e6]
    got = named("--where", "supervision=self", "--where", "params<=90M", "--sort", "params")
    assert got == [one.name for one in sorted(small, key=lambda one: (one.params, one.name))] and len(got) > 3
    assert named("--where", "family=timm_convnext", "--where", "width>1024") == [
        "convnext-clip-large-320",
        "convnext-clip-xxl-256",
    ]
    assert named("--where", "norm=false", "--where", "family=radio") == ["radio-v4-h-512"]
    assert "metaclip-g-224" in named("--where", "repo=-") and "dinov2-base" not in named("--where", "repo=-")
    assert named("--where", "variants=cambrian", "--where", "patch=16") == [
        one.name for one in found if "cambrian" in one.variants and one.patch == 16
    ]
    assert named("--where", "params>900B") == []
    table = listed("--where", "family=vjepa2", "--sort", "width").splitlines()
    assert [line.split()[0] for line in table[1:]] == ["vjepa2-l-256", "vjepa2-h-256", "vjepa2-g-384"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--where", "familly=clip"], "no fact 'familly'. Did you mean 'family'? Known: name, family"),
        (["--where", "params"], "write FACT=VALUE"),
        (["--where", "family<clip"], "< compares numbers, as in params<400M; family has"),
        (["--where", "params<many"], "< compares numbers"),
        # The first is met by none.
        (["--where", "params>900B", "--where", "size=3"], "no fact 'size'"),
        (["--sort", "para"], "no fact 'para'. Did you mean 'params'?"),
        (["--sort", "published"], "--sort published: has no order"),
    ],
)
def test_what_is_no_condition_is_refused_in_one_line(words: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["encoders", *words])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1) and message in done.stderr, done.stderr


@pytest.mark.slow
def test_the_list_loads_no_torch() -> None:
    code = (
        "import sys; sys.argv[1:] = ['encoders']; from mllm_eval.cli import main\n"
        "try: main()\n"
        "finally: print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_revisions_are_whole_commits_or_said_to_be_unknown() -> None:
    for name in names("encoders"):
        revision = load_encoder(name).weights.revision
        assert revision is None or len(revision) == 40
