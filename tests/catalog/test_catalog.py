"""The shipped yaml files load, names resolve, and mistakes are told apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllm_eval import catalog
from mllm_eval.config import load
from mllm_eval.errors import UserError

RECIPE = """\
name: r
llm: l
template: t
tokens: 4
data: d
dtype: float32
seed: 1
stage1: &stage
  data: [{path: p, images: i}]
  lr: 1e-3
  batch: 8
  micro_batch: 4
  warmup: 0
  max_length: 9
  train_llm: false
stage2: *stage
"""


@pytest.mark.parametrize("name", catalog.names("encoders"))
def test_every_encoder_loads(name: str) -> None:
    encoder = catalog.load_encoder(name)
    assert encoder.preprocessing.size >= encoder.patch


@pytest.mark.parametrize("name", catalog.names("recipes"))
def test_every_recipe_loads_with_a_known_llm(name: str) -> None:
    recipe = catalog.load_recipe(name)
    assert recipe.llm in catalog.names("llms")
    assert not recipe.stage1.train_llm
    assert recipe.stage2.train_llm


@pytest.mark.parametrize("name", catalog.names("llms"))
def test_every_llm_loads(name: str) -> None:
    assert catalog.load_llm(name).vocab > 0


def test_the_mini_encoders_differ_only_where_they_should() -> None:
    dino, blind = catalog.load_encoder("mini-dino"), catalog.load_encoder("mini-random")
    same = {"name": "", "weights": dino.weights, "facts": dino.facts}
    assert dino.model_copy(update=same) == blind.model_copy(update=same)
    assert dino.weights != blind.weights


def test_the_paper_asks_sixteen_benchmarks() -> None:
    assert len(set(catalog.paper_benchmarks())) == 16


def test_names_are_found_in_the_working_directory_and_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for root, width in ((here, 1), (there, 2)):
        folder = root / "configs" / "llms"
        folder.mkdir(parents=True)
        text = "name: {}\nweights: {{repo: a/b}}\nparams: 1\nwidth: {}\ndepth: 1\nvocab: 1\n"
        (folder / "both.yaml").write_text(text.format("both", width))
        (folder / f"{root.name}.yaml").write_text(text.format(root.name, width))
    monkeypatch.chdir(here)
    monkeypatch.setenv("MLLM_EVAL_PATH", str(there))
    assert {"both", "here", "there", "mini-llama"} <= set(catalog.names("llms"))
    assert catalog.load_llm("both").width == 1
    assert catalog.load_llm("there").width == 2
    assert catalog.load_llm(str(there / "configs" / "llms" / "both.yaml")).width == 2


def test_an_unknown_name_gets_its_neighbour() -> None:
    with pytest.raises(UserError, match=r"unknown encoder 'mini-dinno'\. Did you mean 'mini-dino'\?"):
        catalog.load_encoder("mini-dinno")
    with pytest.raises(UserError, match=r"unknown LLM 'mini-lama'\. Did you mean 'mini-llama'\?"):
        catalog.load_llm("mini-lama")
    with pytest.raises(UserError, match=r"none/x\.yaml: no such yaml file"):
        catalog.load_recipe("none/x.yaml")


def test_a_file_must_carry_its_own_name(tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(RECIPE)
    with pytest.raises(UserError, match=r"`name: r` differs from the name it is found by, 'other'"):
        catalog.load_recipe(str(path))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tokens: 4", "tokens: 5", "tokens: the token budget must be a square number"),
        ("micro_batch: 4", "micro_batch: 3", "`batch` 8 is not a multiple of `micro_batch` 3"),
        ("lr: 1e-3", "lr: 0", "stage1.lr: Input should be greater than 0, not 0"),
        ("dtype: float32", "dtype: float16", "dtype: Input should be 'float32' or 'bfloat16'"),
        ("seed: 1", "seed: 1\ntempalte: x", "unknown key 'tempalte'. Did you mean 'template'?"),
    ],
)
def test_recipes_are_checked(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.replace(old, new))
    with pytest.raises(UserError) as caught:
        catalog.load_recipe(str(path))
    assert message in str(caught.value)


def test_assumptions_are_listed_and_do_not_change_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "s.yaml").write_text(
        "base: r\nseed: {value: 1, assumed: a guess}\nstage2: {warmup: {value: 0, assumed: a script}}\n"
    )
    (tmp_path / "t.yaml").write_text("base: s\nstage2: {warmup: 0}\n")
    plain, assumed, stated = (load(tmp_path / f"{name}.yaml", catalog.Recipe) for name in "rst")
    assert assumed.assumed() == {"seed": "a guess", "stage2.warmup": "a script"}
    assert stated.assumed() == {"seed": "a guess"}
    assert plain.assumed() == {}
    assert plain.hash == assumed.hash == stated.hash
    assert catalog.Recipe.model_validate(assumed.model_dump()) == assumed


def test_a_recipe_hash_sees_everything_but_llm_and_seed(tmp_path: Path) -> None:
    def recipe_hash(old: str = "", new: str = "") -> str:
        path = tmp_path / "r.yaml"
        path.write_text(RECIPE.replace(old, new))
        return load(path, catalog.Recipe).hash

    same = recipe_hash()
    assert recipe_hash("llm: l", "llm: m") == recipe_hash("seed: 1", "seed: 2") == same
    for old, new in (("lr: 1e-3", "lr: 2e-3"), ("tokens: 4", "tokens: 9"), ("template: t", "template: u")):
        assert recipe_hash(old, new) != same


@pytest.mark.parametrize("text", ["{}", "{path: a, repo: b}", "{path: a, revision: b}"])
def test_weights_have_one_source(text: str, tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(f"w: {text}")
    with pytest.raises(UserError, match="`path`"):
        catalog.load_llm(str(_llm(tmp_path, text)))


def _llm(folder: Path, weights: str) -> Path:
    path = folder / "l.yaml"
    path.write_text(f"name: l\nweights: {weights}\nparams: 1\nwidth: 1\ndepth: 1\nvocab: 1\n")
    return path


def test_a_digest_follows_the_bytes_of_the_weights_and_not_their_card(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    llm = catalog.load_llm(str(_llm(tmp_path, f"{{path: {folder}}}")))
    (folder / "model.safetensors").write_bytes(b"one")
    first = llm.weights.digest()
    (folder / "README.md").write_text("card")
    assert llm.weights.digest() == first
    (folder / "model.safetensors").write_bytes(b"three")
    assert llm.weights.digest() != first


def test_missing_weights_are_named(tmp_path: Path) -> None:
    llm = catalog.load_llm(str(_llm(tmp_path, f"{{path: {tmp_path / 'none'}}}")))
    with pytest.raises(UserError, match=r"none: no weights here"):
        llm.weights.digest()


def test_hub_weights_are_known_by_their_revision(tmp_path: Path) -> None:
    assert catalog.load_llm(str(_llm(tmp_path, "{repo: a/b, revision: c0ffee}"))).weights.digest() == "a/b@c0ffee"


@pytest.mark.parametrize("place", ["cwd", "path", "named"])
def test_a_yaml_in_a_folder_of_ones_own_may_build_on_a_shipped_one(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {
        "recipes": "base: webssl-paper\nname: mine\nstage2:\n  lr: 2.0e-5\n",
        "llms": "base: llama-3-8b-instruct\nname: mine\n",
        # A shipped one that builds on another of its own folder.
        "encoders": "base: webssl-dino1b-full2b-224\nname: mine\n",
    }
    for kind, text in own.items():
        folder = tmp_path / "configs" / kind
        folder.mkdir(parents=True)
        (folder / "mine.yaml").write_text(text)
        (folder / "second.yaml").write_text("base: mine\nname: second\n")
    if place == "cwd":
        monkeypatch.chdir(tmp_path)
    elif place == "path":
        monkeypatch.setenv("MLLM_EVAL_PATH", str(tmp_path))
    for stem in ("mine", "second"):
        of = {kind: f"{tmp_path}/configs/{kind}/{stem}.yaml" if place == "named" else stem for kind in own}
        recipe, shipped = catalog.load_recipe(of["recipes"]), catalog.load_recipe("webssl-paper")
        assert (recipe.stage2.lr, recipe.stage1) == (2e-5, shipped.stage1) and recipe.stage2.lr != shipped.stage2.lr
        assert catalog.load_llm(of["llms"]).weights == catalog.load_llm("llama-3-8b-instruct").weights
        assert catalog.load_encoder(of["encoders"]).depth == catalog.load_encoder("webssl-dino1b-full2b-224").depth


def test_a_yaml_may_carry_the_name_of_the_shipped_one_it_builds_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = catalog.load_recipe("mini")
    folder = tmp_path / "configs" / "recipes"
    folder.mkdir(parents=True)
    (folder / "mini.yaml").write_text("base: mini\nseed: 7\n")
    monkeypatch.chdir(tmp_path)
    assert catalog.load_recipe("mini") == shipped.model_copy(update={"seed": 7})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("base: webssl-papr\nname: mine\n", "mine.yaml: base 'webssl-papr' is neither a file .*mean 'webssl-paper'"),
        ("base: mine\nname: mine\n", "mine.yaml: its `base:` leads back to itself"),
        ("base: other\nname: mine\n", "mine.yaml: its `base:` leads back to itself"),
    ],
)
def test_bases_that_lead_nowhere_are_one_line(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "configs" / "recipes"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(text)
    (folder / "other.yaml").write_text("base: mine\nname: other\n")
    monkeypatch.setenv("MLLM_EVAL_PATH", str(tmp_path))
    with pytest.raises(UserError, match=said) as error:
        catalog.load_recipe("mine")
    assert "\n" not in str(error.value)
