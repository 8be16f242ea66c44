"""What of transformers' inside is used, whether it is still so, and the plain path where it is not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from tiny_models import make_encoder, make_llm, make_recipe

from mllm_eval.generate.engine import Engine
from mllm_eval.generate.reference import Reference
from mllm_eval.model import assemble, internals, load_llm_model, load_tokenizer
from mllm_eval.pipeline.backends import RunSource
from mllm_eval.pipeline.ledger import Ledger
from mllm_eval.pipeline.reporter import Silent


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    internals.fault.cache_clear()
    yield
    internals.fault.cache_clear()


def test_this_transformers_has_the_parts_that_are_used() -> None:
    """Fails with the name of the part and of the version of transformers that changed it."""
    assert internals.fault() is None, internals.fault()


def test_looking_draws_no_random_numbers() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    internals.fault()
    assert torch.equal(torch.rand(3), expected)


def gone(*_: Any, **__: Any) -> Any:
    raise AttributeError("no such part")


BROKEN = [
    ("block", "rotate_half", lambda states: states),
    ("block", "repeat_kv", gone),
    ("block", "create_causal_mask", gone),
    ("attention", "register_attention", lambda *_: None),
    ("cache", "KeyValues", gone),
]


@pytest.mark.parametrize(("part", "name", "other"), BROKEN)
def test_a_part_that_changed_is_named_with_the_version(
    part: str, name: str, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(internals, name, other)
    problem = internals.fault()
    assert problem is not None and "\n" not in problem
    assert problem.startswith(f"the {part} of LLaMA is another one in transformers {transformers.__version__} (")


@pytest.mark.slow
def test_a_part_that_is_gone_leaves_the_rest_importable() -> None:
    code = (
        "import transformers.models.llama.modeling_llama as llama; del llama.rotate_half\n"
        "import mllm_eval.model.vlm, mllm_eval.generate.engine\n"
        "from mllm_eval.model.internals import fault; print(fault())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"a part of LLaMA is gone in transformers {transformers.__version__} (")
    assert "rotate_half" in done.stdout


def test_where_a_part_changed_answers_and_losses_take_the_plain_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, llm = make_encoder(tmp_path / "encoder"), make_llm(tmp_path / "llm")
    recipe = make_recipe(tmp_path / "none", tmp_path)
    model = assemble(encoder, recipe, load_llm_model(llm), load_tokenizer(llm, recipe.template))
    embeds, labels = torch.randn(2, 6, 64), torch.tensor([[-100, -100, 3, 4, -100, -100], [-100, 5, 6, 7, 8, -100]])
    usual = model(inputs_embeds=embeds, labels=labels).loss
    said: list[str] = []
    run: Any = SimpleNamespace(recipe=recipe, answers_path=lambda name: tmp_path / f"{name}.jsonl")
    source = RunSource(run, lambda: None, Ledger(tmp_path, SimpleNamespace(say=said.append, step=Silent().step)))
    source.__dict__["model"] = model
    assert isinstance(source.load(), Engine) and not said
    internals.fault.cache_clear()
    monkeypatch.setattr(internals, "rotate_half", gone)
    assert isinstance(source.load(), Reference)
    assert len(said) == 1 and said[0].startswith("answered one by one, because the block of LLaMA is another one")
    with pytest.raises(AttributeError):
        model(inputs_embeds=embeds, labels=labels)
    model.skips = internals.fault() is None
    torch.testing.assert_close(model(inputs_embeds=embeds, labels=labels).loss, usual)
