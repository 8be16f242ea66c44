"""Exports that transformers 4.57 reads as 5 does: servers are pinned to it, and warn at most.

`pip install --target DIR --no-deps transformers==4.57.6 huggingface_hub==0.36.0 tokenizers==0.22.1` and
`MLLM_EVAL_TRANSFORMERS_4=DIR` let the last test read the folders by that version, too. After `make peers` such a DIR is
results/peers/transformers-4.57/lib/python3.11/site-packages.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tiny_models import make_encoder, make_llm, make_recipe
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer, LlamaForCausalLM

from mllm_eval.adapters import load_encoder_model
from mllm_eval.model import assemble, load_llm_model, load_tokenizer, save_checkpoint
from mllm_eval.model.export import export_llava
from mllm_eval.model.llmexport import export_llm

SCALED = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
READ = """
import sys
sys.path.insert(0, sys.argv[1])
import torch, transformers
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
assert transformers.__version__.startswith("4."), transformers.__version__
ids, alone, shown, pixels, seen, text = torch.load(sys.argv[2] + "/wanted.pt", weights_only=True)
with torch.no_grad():
    torch.testing.assert_close(AutoModelForCausalLM.from_pretrained(sys.argv[2] + "/alone")(ids).logits, alone)
    model = AutoModelForImageTextToText.from_pretrained(sys.argv[2] + "/llava")
    torch.testing.assert_close(model(input_ids=shown, pixel_values=pixels).logits, seen)
for one in (AutoTokenizer.from_pretrained(sys.argv[2] + "/alone"), AutoProcessor.from_pretrained(sys.argv[2] + "/llava").tokenizer):
    assert one(text, add_special_tokens=False)["input_ids"] == ids[0, 3:].tolist()
"""  # noqa: E501


def exported(folder: Path, kind: str) -> None:
    """In `folder`: the exports `alone` and `llava` of a checkpoint with scaled rotary positions."""
    encoder, llm = make_encoder(folder / "encoder", kind, norm=False), make_llm(folder / "llm")
    config = LlamaForCausalLM.from_pretrained(folder / "llm").config
    config.rope_parameters = SCALED
    torch.manual_seed(4)
    LlamaForCausalLM(config).save_pretrained(folder / "llm")
    recipe = make_recipe(folder / "none.jsonl", folder, tokens=16, standardize=False)
    model = assemble(encoder, recipe, load_llm_model(llm), load_tokenizer(llm, recipe.template))
    save_checkpoint(model.eval(), folder / "checkpoint", load_encoder_model(encoder))
    export_llm(folder / "checkpoint", folder / "alone")
    export_llava(folder / "checkpoint", folder / "llava")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_an_export_is_spelt_for_both(kind: str, tmp_path: Path) -> None:
    exported(tmp_path, kind)
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("alone", "llava")]
    for text in (configs[0], configs[1]["text_config"]):
        assert text["rope_theta"] == 500000.0 and text["rope_parameters"] == SCALED
        assert text["rope_scaling"] == {name: value for name, value in SCALED.items() if name != "rope_theta"}
    with safe_open(tmp_path / "llava" / "model.safetensors", "pt") as file:
        tower = [name for name in file.keys() if "vision_tower" in name]  # noqa: SIM118  # no mapping
    assert tower and all("vision_tower.vision_model." in name for name in tower)
    everything = "".join(
        path.read_text() for path in tmp_path.glob("*/*.json") if path.parent.name in ("alone", "llava")
    )
    assert "TokenizersBackend" not in everything and str(tmp_path) not in everything


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_transformers_4_and_5_compute_the_same_of_an_export(kind: str, tmp_path: Path) -> None:
    exported(tmp_path, kind)
    text = "Which colour is the third shape from the left?"
    tokens = AutoTokenizer.from_pretrained(tmp_path / "alone")(text, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[5, 6, 7, *tokens]])
    llava: Any = AutoModelForImageTextToText.from_pretrained(tmp_path / "llava").eval()
    shown = torch.tensor([[5, *[llava.config.image_token_id] * 16, 20, 30, 40]])
    pixels = torch.linspace(-1, 1, 3 * 28 * 28).view(1, 3, 28, 28)
    with torch.no_grad():
        alone = AutoModelForCausalLM.from_pretrained(tmp_path / "alone").eval()(ids).logits
        seen = llava(input_ids=shown, pixel_values=pixels).logits
    # The rotary settings are in use: at its own default base the same weights say something else.
    plain = LlamaForCausalLM.from_pretrained(tmp_path / "alone").eval()
    plain.config.rope_parameters = {"rope_type": "default", "rope_theta": 10000.0}
    other = LlamaForCausalLM(plain.config).eval()
    other.load_state_dict(plain.state_dict())
    with torch.no_grad():
        assert not torch.allclose(other(ids).logits, alone, atol=1e-3)
    if not (older := os.environ.get("MLLM_EVAL_TRANSFORMERS_4")):
        pytest.skip("MLLM_EVAL_TRANSFORMERS_4 names no folder with transformers 4.57")
    torch.save((ids, alone, shown, pixels, seen, text), tmp_path / "wanted.pt")
    done = subprocess.run(
        [sys.executable, "-c", READ, older, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
