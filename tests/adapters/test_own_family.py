"""Families of one's own: found beside the yaml, held to the contract, part of what a run is, run from nowhere else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from own_families import CODE, SHAPE, own_encoder, write_encoder, write_family
from tiny_models import make_conversations, make_encoder, make_image, make_llm, make_recipe
from typer.testing import CliRunner, Result

from mllm_eval.adapters import FAMILIES, family, load_encoder_model
from mllm_eval.adapters.examination import examine
from mllm_eval.catalog import Encoder, load_encoder
from mllm_eval.catalog.architecture import FORMS, Form, parameters
from mllm_eval.cli.app import app
from mllm_eval.config import load
from mllm_eval.errors import UserError
from mllm_eval.features.key import folder_name, key_of
from mllm_eval.model import assemble, load_checkpoint, load_llm_model, load_tokenizer, save_checkpoint
from mllm_eval.model.export import export_llava
from mllm_eval.operations.shapes import encoder_shape
from mllm_eval.report.cost import encoding
from mllm_eval.run import Run
from mllm_eval.saved import saved_runs
from mllm_eval.train import train

OWN = list(CODE)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that MLLM_EVAL_PATH names, while one works elsewhere."""
    home = tmp_path / "mine"
    home.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLLM_EVAL_PATH", str(home))
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path / "data"))
    return home


def command(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def pixels(count: int = 2, size: int = 28) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1)) - 0.5


# ---- the contract, as for the shipped families ----
@pytest.mark.parametrize("place", ["adapters", "configs/encoders"])
def test_a_family_is_found_beside_the_yaml(place: str, home: Path) -> None:
    shutil.move(write_family(home, "behind", "somewhere"), home / "behind.py")
    with pytest.raises(UserError, match="no family reads it"):
        family("behind")
    (home / place).mkdir(parents=True)
    shutil.move(home / "behind.py", home / place / "behind.py")
    write_encoder(home, "behind")
    assert type(load_encoder_model(load_encoder("own-behind"))).__name__ == "Family"


def test_a_family_is_found_in_the_folder_one_works_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLLM_EVAL_PATH")
    own_encoder(tmp_path, "convnet")
    assert command("check", "own-convnet").exit_code == 0


@pytest.mark.parametrize("name", OWN)
def test_every_family_gives_its_grid_and_is_deterministic(name: str, home: Path) -> None:
    encoder = load_encoder_model(own_encoder(home, name))
    first = encoder(pixels())[0]
    assert first.patches.shape == (2, 4, 4, 32) and first.summary.shape == (2, 32)
    again = encoder(pixels())[0]
    assert torch.equal(first.patches, again.patches) and torch.equal(first.summary, again.summary)
    assert not any(parameter.requires_grad for parameter in encoder.parameters()) and not encoder.training
    found = examine(encoder)
    assert found.repeatable and found.ordered and found.differs == []


@pytest.mark.parametrize("name", OWN)
def test_the_last_layer_is_normed_where_the_yaml_says_so(name: str, home: Path) -> None:
    plain = load_encoder_model(own_encoder(home, name, norm=False))
    normed = load_encoder_model(own_encoder(home, name, norm=True))
    raw = plain(pixels())[0].patches
    torch.testing.assert_close(normed(pixels())[0].patches, normed.final_norm()(raw))
    assert not torch.allclose(raw, normed(pixels())[0].patches)


@pytest.mark.parametrize("name", OWN)
def test_nothing_is_computed_behind_the_layer_asked_for(name: str, home: Path) -> None:
    encoder = load_encoder_model(own_encoder(home, name, norm=False, cells=None if name != "convnet" else 4))
    depth = encoder.facts.depth
    ran: list[int] = []
    for number, block in enumerate(encoder.blocks(), 1):
        block.register_forward_hook(lambda _module, _in, _out, number=number: ran.append(number))
    if name == "convnet":
        with pytest.raises(UserError, match=r"49 tokens of the image, the yaml says 4 x 4; correct `patch` or `cells`"):
            encoder(pixels(), [depth - 1])
    else:
        encoder(pixels(), [depth - 1])
    assert ran == list(range(1, depth))


@pytest.mark.slow
def test_registers_are_left_out_and_patches_are_kept(home: Path) -> None:
    before = load_encoder_model(own_encoder(home, "registers"))
    states = before.model(pixels()).last_hidden_state
    assert states.shape[1] == 1 + 4 + 16
    (found,) = before(pixels())
    torch.testing.assert_close(found.patches.flatten(1, 2), states[:, 5:])
    torch.testing.assert_close(found.summary, states[:, 0])
    assert "5 before them dropped" in command("check", "own-registers").output
    behind = load_encoder_model(own_encoder(home, "behind"))
    tokens = behind.model.norm(behind.model(pixels()))
    torch.testing.assert_close(behind(pixels())[0].patches.flatten(1, 2), tokens[:, :16])
    assert "none before them, 3 behind them too" in command("check", "own-behind").output


def test_a_register_is_no_cls_token(home: Path) -> None:
    with pytest.raises(UserError, match="family behind has no CLS token"):
        load_encoder_model(own_encoder(home, "behind", summary="cls"))
    path = write_family(home, "registers")
    path.write_text(path.read_text().replace("prefix=1, registers=4", "registers=5"))
    with pytest.raises(UserError, match="the weights have 4 registers, family registers reads them with 5"):
        load_encoder_model(load(write_encoder(home, "registers", params=99), Encoder))


@pytest.mark.parametrize("name", ["registers", "behind"])
def test_parameters_are_counted_from_the_form(name: str, home: Path) -> None:
    encoder = own_encoder(home, name)
    assert encoder.params == sum(one.numel() for one in load_encoder_model(encoder).parameters())
    form: Form = family(name).form  # type: ignore[attr-defined]
    assert form.registers + form.behind > 0
    shape = encoder.architecture
    assert shape is not None
    assert parameters(form, shape, 7, 32, 2) > parameters(FORMS["vit"], shape, 7, 32, 2)


def test_parameters_of_a_grid_without_patches_are_counted_from_the_yaml(home: Path) -> None:
    stem = 3 * 7 * 7 * 32 + 32
    encoder = own_encoder(home, "behind", patch=None, cells=4, architecture={**SHAPE, "stem": stem})
    assert encoder.params == sum(one.numel() for one in load_encoder_model(encoder).parameters())
    shape = encoder_shape(encoder)
    assert (shape.patches, shape.positions, shape.grid) == (stem, 4 * 4 * 32, 4)
    larger = own_encoder(home, "behind", patch=None, cells=8, params=1, architecture={**SHAPE, "native": 14})
    assert (larger.native_grid, larger.grid) == (4, 8)


def test_positions_may_be_computed(home: Path) -> None:
    shape = own_encoder(home, "behind").architecture
    assert shape is not None
    learned, computed = Form(prefix=1), Form(prefix=1, positions=False)
    assert parameters(learned, shape, 7, 32, 2) - parameters(computed, shape, 7, 32, 2) == (4 * 4 + 1) * 32


@pytest.mark.slow
def test_a_grid_without_patches_is_what_the_yaml_says(home: Path) -> None:
    encoder = own_encoder(home, "convnet")
    assert (encoder.patch, encoder.grid) == (None, 4)
    assert encoding(encoder_shape(encoder), 1) > 0
    listed = json.loads(next(line for line in command("encoders", "--json").output.splitlines() if "own-conv" in line))
    assert (listed["patch"], listed["tokens"], listed["code"]) == (None, 16, encoder.code)
    assert "own-convnet" in command("encoders").output
    strided = own_encoder(home, "convnet", patch=8)
    assert strided.grid == 4
    assert load_encoder_model(strided)(pixels(size=32))[0].patches.shape == (2, 4, 4, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cells": None}, "give `patch`, the edge of a patch or the stride in pixels, or `cells`"),
        ({"cells": 3}, r"16 tokens of the image, the yaml says 3 x 3; correct `patch` or `cells`"),
        ({"patch": 7}, "the yaml says patch: 7, the weights have 8"),
        ({"width": 64}, "the yaml says width: 64, the weights have 32"),
        ({"depth": 2}, "the yaml says depth: 2, the weights have 3"),
        ({"params": 1}, "the yaml says params: 1, the weights have 6208"),
        ({"params": None}, "give `params`, or the `architecture` they are computed from"),
        ({"feature_layer": 9}, "there is no layer 9; use 1 to 3"),
        ({"summary": "pooled"}, "has no pooling of its own"),
        ({"code": "0" * 64}, r"convnet\.py: family convnet is [0-9a-f]{12} now, and 000000000000 where"),
        ({"code": "abc"}, "code: String should match"),
    ],
)
def test_facts_are_held_against_a_family_of_ones_own(changes: dict[str, Any], message: str, home: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_encoder_model(own_encoder(home, "convnet", **changes))(pixels())


# ---- what is unknown ----
def test_an_unknown_family_is_told_with_those_that_there_are(home: Path) -> None:
    write_family(home, "convnet")
    path = write_encoder(home, "convnet", family="convnett")
    found = command("check", "own-convnet")
    assert found.exit_code == 2 and found.output.count("\n") == 1
    assert f"{path}" in found.output and "Did you mean 'convnet'? docs/add-an-encoder.md" in found.output
    assert f"no family reads it (known: {', '.join(sorted([*FAMILIES, 'convnet']))})" in found.output


def test_weights_of_another_type_name_the_family_that_reads_them(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path / "weights", "clip", as_family="vit", norm=True)
    with pytest.raises(UserError, match=r"'clip_vision_model', family vit reads vit, vit_mae; set `family: clip`"):
        load_encoder_model(encoder)
    config = tmp_path / "weights/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "sigliip"}))
    with pytest.raises(UserError, match=r"no family reads it \(known: .*clip, .*\)\. Did you mean 'siglip'\? docs"):
        load_encoder_model(encoder)
    config.write_text(json.dumps({"architecture": "vit_base_patch16_224"}))
    with pytest.raises(UserError, match=r"is of timm's 'vit_base_patch16_224'; set `family: timm`"):
        load_encoder_model(encoder)


def test_a_shipped_familys_name_means_the_shipped_one(home: Path) -> None:
    (home / "adapters").mkdir()
    (home / "adapters/vit.py").write_text("raise SystemExit('run')")
    assert family("vit").__module__ == "mllm_eval.adapters.vit"
    with pytest.raises(ValueError, match="`code` belongs to a family of one's own; dinov2 is shipped"):
        make_encoder(home / "weights", code="0" * 64)
    with pytest.raises(ValueError, match="family dinov2 cuts patches: give `patch`, and no `cells`"):
        make_encoder(home / "weights", cells=4)


# ---- code that fails ----
@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("import json", "import jsonn", r"convnet\.py:3: family convnet: can't be imported \(ModuleNotFoundError"),
        ("prefix = 0", "prefix = ", r"convnet\.py:\d+: family convnet: can't be imported \(SyntaxError"),
        ("class Family(EncoderModel)", "class Family", "has no class `Family` that derives from"),
        ("class Family(", "class Other(", "has no class `Family` that derives from"),
        ("    prefix = 0\n", "", "class Family has no prefix; see mllm_eval.adapters.base.EncoderModel"),
        ("def blocks", "def stages", "class Family has no blocks;"),
        ("def build", "def built", "class Family has no build;"),
        ("self.model.stages", "self.model.stage", r"convnet\.py:\d+: family convnet: `load` fails \(AttributeError"),
        ("pixels = stage(pixels)", "pixels = stage(pixls)", r"convnet\.py:26: .*`forward` fails \(NameError"),
        ("return self.model.norm", "return nn.LayerNorm(3)", r"convnet\.py.*`forward` fails \(RuntimeError"),
        (
            "        return self.model.norm\n",
            "        return self.model.norm\n\n    def tokens(self, output):\n        return output\n",
            r"convnet\.py: family convnet: `forward` fails \(RuntimeError: Given normalized_shape=\[32\]",
        ),
        (
            "pixels = stage(pixels)",
            "pixels = stage(pixels)\n        return {}",
            None,
        ),
    ],
)
def test_code_that_fails_is_told_with_its_line(old: str, new: str, message: str | None, home: Path) -> None:
    path = write_family(home, "convnet")
    write_encoder(home, "convnet")
    assert old in CODE["convnet"]
    path.write_text(CODE["convnet"].replace(old, new, 1))
    found = command("check", "own-convnet")
    if message is None:
        assert found.exit_code == 0
        return
    assert found.exit_code == 2 and found.output.count("\n") == 1 and "Traceback" not in found.output
    with pytest.raises(UserError, match=message):
        load_encoder_model(load_encoder("own-convnet"))(pixels())


def test_features_of_another_shape_are_refused(home: Path) -> None:
    path = write_family(home, "convnet")
    write_encoder(home, "convnet")
    more = "\n    def forward(self, pixels, layers=()):\n        found = super().forward(pixels, layers)\n"
    path.write_text(CODE["convnet"] + more + "        return [one._replace(summary=one.patches) for one in found]\n")
    with pytest.raises(UserError, match=r"family convnet gives summary \(2, 4, 4, 32\), the yaml says \(2, 32\)"):
        load_encoder_model(load_encoder("own-convnet"))(pixels())


# ---- where code comes from ----
@pytest.mark.slow
def test_no_code_is_run_from_among_the_weights(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_encoder(home, "convnet")
    place = tmp_path / "downloaded"
    shutil.copytree(home / "weights/convnet", place)
    (place / "adapters").mkdir()
    (place / "adapters/theirs.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')\n" + CODE["convnet"])
    facts = yaml.safe_load((home / "configs/encoders/own-convnet.yaml").read_text())
    path = home / "configs/encoders/theirs.yaml"
    path.write_text(yaml.safe_dump({**facts, "name": "theirs", "family": "theirs", "weights": {"path": str(place)}}))
    found = command("check", "theirs")
    assert found.exit_code == 2 and "no family reads it" in found.output
    monkeypatch.chdir(place)
    found = command("check", "theirs")
    assert found.exit_code == 2 and "lies among the weights" in found.output and "copy it to a folder" in found.output
    assert not (tmp_path / "run").exists()
    shutil.copy(place / "adapters/theirs.py", home / "adapters/theirs.py")
    monkeypatch.chdir(tmp_path)
    assert command("check", "theirs").exit_code == 0 and (tmp_path / "run").exists()


@pytest.mark.slow
def test_looking_at_encoders_runs_no_code(tmp_path: Path, home: Path) -> None:
    own_encoder(home, "convnet")
    path = home / "adapters/convnet.py"
    path.write_text(f"open({str(tmp_path / 'run')!r}, 'w')\n" + CODE["convnet"])
    assert command("ls", "encoders").exit_code == 0 and command("encoders").exit_code == 0
    assert Run(load_encoder("own-convnet"), make_recipe(tmp_path, tmp_path), make_llm(tmp_path / "llm"), 0).hash
    assert not (tmp_path / "run").exists()


# ---- what a run is ----
def test_the_code_belongs_to_a_run_and_to_its_features(home: Path, tmp_path: Path) -> None:
    recipe, llm = make_recipe(tmp_path, tmp_path), make_llm(tmp_path / "llm")
    old = own_encoder(home, "convnet")
    path = home / "adapters/convnet.py"
    path.write_text(path.read_text() + "\n# Another version.\n")
    new = load_encoder("own-convnet")
    assert old.code != new.code
    assert Run(old, recipe, llm, 0).hash != Run(new, recipe, llm, 0).hash
    digest = old.weights.digest()
    assert folder_name(key_of(old, digest, "float32")) != folder_name(key_of(new, digest, "float32"))
    path.write_text(CODE["convnet"])
    assert Run(load_encoder("own-convnet"), recipe, llm, 0).hash == Run(old, recipe, llm, 0).hash


def test_shipped_families_are_hashed_as_before() -> None:
    encoder = load_encoder("mini-dino")
    assert encoder.code is None
    assert not {"code", "cells"} & encoder.model_dump(mode="json").keys()
    assert folder_name(key_of(encoder, "0" * 64, "float32")) == "92b4b011f998d90f"


@pytest.mark.parametrize("name", ["convnet", "behind"])
@pytest.mark.slow
def test_a_run_is_trained_saved_and_read_without_the_code(name: str, home: Path, tmp_path: Path) -> None:
    data, images = make_conversations(tmp_path / "set")
    run = Run(own_encoder(home, name), make_recipe(data, images), make_llm(tmp_path / "llm"), 0)
    run.prepare()
    train(run)
    image = torch.from_numpy(load_encoder_model(run.encoder).preprocess(make_image(3)))[None]
    expected = load_encoder_model(run.encoder)(image)[0].patches
    torch.testing.assert_close(load_checkpoint(run.checkpoint).encode(image), expected)
    path = home / f"adapters/{name}.py"
    path.write_text(path.read_text() + "\n# Another version.\n")
    with pytest.raises(UserError, match=rf"{name}\.py: family {name} is .* now, and .* where this encoder was used"):
        load_checkpoint(run.checkpoint)
    path.unlink()
    assert [one.hash for one in saved_runs()] == [run.hash]
    with pytest.raises(UserError, match=f"family '{name}': no family reads it"):
        load_checkpoint(run.checkpoint)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("convnet", "its tower is a class of transformers, this encoder is a ConvNet"),
        ("registers", "it drops one token before the patches, this encoder has 5"),
    ],
)
def test_no_llava_is_made_of_what_it_cannot_say(name: str, reason: str, home: Path, tmp_path: Path) -> None:
    encoder = own_encoder(home, name, norm=False)
    recipe = make_recipe(tmp_path / "none.jsonl", tmp_path, tokens=16, standardize=False)
    llm = make_llm(tmp_path / "llm")
    model = assemble(encoder, recipe, load_llm_model(llm), load_tokenizer(llm, recipe.template))
    save_checkpoint(model, tmp_path / "checkpoint", load_encoder_model(encoder))
    with pytest.raises(UserError, match=reason):
        export_llava(tmp_path / "checkpoint", tmp_path / "llava")


# ---- numbers where texts are wanted ----
@pytest.mark.parametrize(
    ("written", "said"), [("0", "0"), ("2012", "2012"), ("1.3e9", "1300000000"), ("0.5", "0.5"), ("1.3B", "1.3B")]
)
def test_samples_seen_may_be_a_number(written: str, said: str, home: Path) -> None:
    own_encoder(home, "behind")
    path = home / "configs/encoders/own-behind.yaml"
    path.write_text(path.read_text().replace("samples_seen: 0", f"samples_seen: {written}"))
    found = load_encoder("own-behind").facts
    assert (found.samples_seen, found.pretraining_data) == (said, "2012")
    path.write_text(path.read_text().replace(f"samples_seen: {written}", "samples_seen: [1]"))
    with pytest.raises(UserError, match=r"facts\.samples_seen: Input should be a valid string"):
        load_encoder("own-behind")
