"""An untrained checkpoint, nine questions to ask it, and asking it as an external model."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from places import ROOT
from tiny_models import make_encoder, make_image, make_llm, make_recipe

from mllm_eval.adapters import load_encoder_model
from mllm_eval.catalog import LLM
from mllm_eval.external import ExternalModel
from mllm_eval.generate import ChatFormat, Request
from mllm_eval.generate.request import write_request
from mllm_eval.model import assemble, load_llm_model, load_tokenizer, save_checkpoint
from mllm_eval.pipeline import evaluate_external

EXAMPLE = ROOT / "docs" / "examples" / "easy-vqa"
QUESTIONS = 9


def make_checkpoint(
    folder: Path, family: str = "clip", outside: bool = False, mode: str = "squash", **changes: Any
) -> Path:
    """A checkpoint that was never trained; `outside` puts the image's token behind the LLM's words."""
    encoder = make_encoder(folder / "encoder", family, **{"norm": False, **changes.pop("encoder", {})})
    shown = encoder.preprocessing.model_copy(update={"mode": mode})
    encoder = encoder.model_copy(update={"preprocessing": shown})
    llm = make_llm(folder / "llm")
    if outside:
        model: Any = load_llm_model(llm)
        model.resize_token_embeddings(llm.vocab - 1)
        model.save_pretrained(folder / "llm")
        params = sum(parameter.numel() for parameter in model.parameters())
        llm = LLM(**{**llm.model_dump(), "vocab": llm.vocab - 1, "params": params})
    recipe = make_recipe(folder / "none.jsonl", folder, **{"tokens": 16, "standardize": False, **changes})
    torch.manual_seed(3)
    model = assemble(encoder, recipe, load_llm_model(llm), load_tokenizer(llm, recipe.template))
    with torch.no_grad():
        # Louder, so that answers differ from picture to picture.
        for parameter in model.projector.parameters():
            parameter.mul_(6)
    save_checkpoint(model, folder / "checkpoint", load_encoder_model(encoder))
    return folder / "checkpoint"


def write_questions(path: Path) -> None:
    pictures = []
    for index in range(3):
        packed = io.BytesIO()
        make_image(index, (28, 20 + 4 * index)).save(packed, "PNG")
        pictures.append({"bytes": packed.getvalue(), "path": None})
    rows = {
        "question_id": [f"q{at}" for at in range(QUESTIONS)],
        "question": [f"what is shape {at}?" for at in range(QUESTIONS)],
        "answer": ["circle"] * QUESTIONS,
    }
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([pictures[at % 3] for at in range(QUESTIONS)], picture)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(rows).append_column("image", images), path)


def ask(place: Path, **options: Any) -> ExternalModel:
    return evaluate_external(str(place), "easy-vqa", benchmarks=["easy_vqa"], **options)


def a_request(sample: Any, max_new_tokens: int = 4) -> Request:
    return write_request(sample, ChatFormat(), max_new_tokens)
