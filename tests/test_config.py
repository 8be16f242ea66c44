"""Strict yaml: what is refused, and that the message says where and how to mend."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from mllm_eval.catalog import Recipe
from mllm_eval.config import Strict, canonical, load, short_hash
from mllm_eval.errors import UserError, near


class Inner(Strict):
    rate: float = 0.1
    words: list[str] = Field(default_factory=list)


class Outer(Strict):
    name: str
    inner: Inner = Inner()
    many: dict[str, Inner] = Field(default_factory=dict)
    some: list[Inner] | None = None


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / "a.yaml"


def test_base_is_laid_under_mapping_by_mapping(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        a="base: b\nname: a\ninner: {rate: 2}\n",
        b="base: c.yaml\nname: b\ninner: {words: [x]}\n",
        c="name: c\ninner: {rate: 1, words: [y, z]}\nmany: {k: {rate: 3}}\n",
    )
    assert load(path, Outer) == Outer(name="a", inner=Inner(rate=2, words=["x"]), many={"k": Inner(rate=3)})


def test_a_base_may_be_a_file_of_the_package(tmp_path: Path) -> None:
    path = write(tmp_path, a="base: package:configs/recipes/mini.yaml\nname: a\ndata: mine\n")
    recipe = load(path, Recipe)
    assert (recipe.name, recipe.data, recipe.llm) == ("a", "mine", "mini-llama")


def test_exponents_without_a_dot_are_numbers(tmp_path: Path) -> None:
    assert load(write(tmp_path, a="name: n\ninner: {rate: 1e-3}"), Outer).inner.rate == 0.001


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\niner: {}\n", "a.yaml:2: unknown key 'iner'. Did you mean 'inner'?"),
        ("name: a\ninner:\n  rat: 1\n", "a.yaml:3: unknown key 'inner.rat'. Did you mean 'rate'?"),
        ("name: a\nmany: {k: {wrds: []}}\n", "unknown key 'many.k.wrds'. Did you mean 'words'?"),
        (
            "name: a\nsome:\n- rate: 1\n- raet: 2\n",
            "a.yaml:4: unknown key 'some.1.raet'. Did you mean 'rate'?",
        ),
        ("name: a\nqqqq: 1\n", "Known: inner,many,name,some."),
        ("inner: {}\n", "key 'name' is missing"),
        ("name: a\ninner:\n  rate: fast\n", "a.yaml:3: inner.rate: Input should be a valid number"),
        ("name: a\nname: b\n", "a.yaml:2: not valid yaml (key 'name' twice)"),
        ("name: [\n", "not valid yaml"),
        ("- a\n", "expected `key: value` lines, found list"),
        ("base: a\n", "leads back to itself"),
        ("base: bb\n", "neither a file nor a sibling. Did you mean 'b'?"),
        ("", "key 'name' is missing"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(write(tmp_path, a=text, b="name: b\n"), Outer)
    assert message in str(caught.value)
    assert "a.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mistake_in_a_base_names_the_base(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"b\.yaml:2: unknown key 'nmae'"):
        load(write(tmp_path, a="base: b\nname: a\n", b="inner: {}\nnmae: b\n"), Outer)


def test_missing_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read"):
        load(tmp_path / "none.yaml", Outer)


def test_models_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Inner().rate = 1.0  # type: ignore[misc]


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.slow
@given(st.dictionaries(st.text(), plain))
def test_canonical_keeps_the_data_and_forgets_the_order(data: dict[str, object]) -> None:
    backwards = dict(reversed(data.items()))
    assert canonical(data) == canonical(backwards)
    assert json.loads(canonical(data)) == data


def test_hash_is_that_of_the_canonical_text() -> None:
    # sha256 of the bytes {"a":[1,"é"],"b":{"rate":0.1,"words":[]}}
    text = '{"a":[1,"é"],"b":{"rate":0.1,"words":[]}}'
    data = {"b": Inner(), "a": (1, "é")}
    assert canonical(data) == text
    assert short_hash(data) == short_hash(json.loads(text))
    assert len(short_hash(data, 20)) == 20
    assert short_hash(data) != short_hash({"b": Inner(rate=0.2), "a": (1, "é")})


def test_canonical_refuses_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical(float("nan"))


@pytest.mark.parametrize(
    ("name", "hint"),
    [("mini-dinno", " Did you mean 'mini-dino'?"), ("MMBENCH", " Did you mean 'mmbench'?"), ("zzz", "")],
)
def test_near_names(name: str, hint: str) -> None:
    assert near(name, ["mini-dino", "mini-clip", "mmbench"]) == hint
