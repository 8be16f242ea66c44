"""After `import mllm_eval` transformers loads this project's checkpoints, and nothing heavy was imported for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import make_encoder, make_llm, make_recipe

from mllm_eval.adapters import load_encoder_model
from mllm_eval.model import assemble, load_llm_model, load_tokenizer, save_checkpoint

HEAVY = ("torch", "transformers", "numpy", "pandas", "pydantic", "yaml", "PIL", "rich", "typer")
LIGHT = f"import sys; import mllm_eval; print([name for name in {HEAVY!r} if name in sys.modules])"
LOAD = """
import sys
{first}
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
place = {place!r}
for load in ({order}):
    print(type(load.from_pretrained(place)).__name__)
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    encoder, llm = make_encoder(folder / "encoder"), make_llm(folder / "llm")
    recipe = make_recipe(folder / "none.jsonl", folder)
    model = assemble(encoder, recipe, load_llm_model(llm), load_tokenizer(llm, recipe.template))
    save_checkpoint(model, folder / "saved", load_encoder_model(encoder))
    return folder / "saved"


def test_the_import_is_light() -> None:
    assert run(LIGHT) == "[]\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "order", "names"),
    [
        ("import mllm_eval", "AutoProcessor, AutoConfig", ["VLMProcessor", "VLMConfig"]),
        ("from transformers import AutoProcessor, AutoConfig; import mllm_eval; "
         "assert 'mllm_eval.model' not in sys.modules",
         "AutoProcessor, AutoModelForImageTextToText", ["VLMProcessor", "VLM"]),
    ],
)  # fmt: skip
def test_auto_classes_know_a_checkpoint_whichever_was_imported_first(
    checkpoint: Path, first: str, order: str, names: list[str]
) -> None:
    assert run(LOAD.format(first=first, place=str(checkpoint), order=order + ",")).split() == names


@pytest.mark.slow
@pytest.mark.parametrize("absent", ["transformers", "torch"])
def test_it_is_imported_without_them(absent: str) -> None:
    refused = f"import sys; sys.modules[{absent!r}] = None; import mllm_eval; print(mllm_eval.names('encoders')[:1])"
    assert run(refused).startswith("['")
