"""The features of all layers: of an encoder for images, and of a language model for their captions."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mllm_eval.adapters import load_encoder_model
from mllm_eval.adapters.loading import load_whole, understood
from mllm_eval.alignment.pairs import CaptionedImage
from mllm_eval.catalog import LLM, Encoder, load_llm, names
from mllm_eval.decoding import decoders
from mllm_eval.environment import device
from mllm_eval.errors import UserError, near
from mllm_eval.kernels import use_kernels
from mllm_eval.progress import Progress, unheard
from mllm_eval.run import Run
from mllm_eval.saved import saved_run

BATCH = 16


class Representations(NamedTuple):
    """Features float32 [layers, samples, width] of the readable samples, and index -> reason for the others.

    A reason begins with the sample's `where`.
    """

    features: Tensor
    failed: dict[int, str]


@torch.no_grad()
def of_pictures(encoder: Encoder, pairs: Sequence[CaptionedImage], progress: Progress = unheard) -> Representations:
    """The features of images: each block's summary, before any final norm.

    The final norm is skipped whatever the yaml says, since it belongs to the last block alone. The summary is the one
    that the yaml declares, which for an encoder without a CLS token is not a patch. Raises UserError if no image can be
    read.
    """
    model = load_encoder_model(encoder.model_copy(update={"norm": False})).to(device())
    weight = next(model.parameters())
    layers = range(1, len(model.blocks()) + 1)
    rows: list[Tensor] = []
    failed: dict[int, str] = {}

    def pixels(number: int) -> np.ndarray[Any, Any] | str:
        try:
            return model.preprocess(pairs[number].load())
        except UserError as problem:
            reason, where = str(problem), pairs[number].where
            return reason if reason.startswith(where) else f"{where}: {reason}"

    with ThreadPoolExecutor(decoders(), "decode") as pool:
        for start in range(0, len(pairs), BATCH):
            numbers = range(start, min(start + BATCH, len(pairs)))
            read = dict(zip(numbers, pool.map(pixels, numbers), strict=True))
            failed |= {number: one for number, one in read.items() if isinstance(one, str)}
            whole = [one for one in read.values() if not isinstance(one, str)]
            if whole:
                made = model(torch.from_numpy(np.stack(whole)).to(weight.device, weight.dtype), layers)
                rows.append(torch.stack([one.summary for one in made]).float().cpu())
            progress(numbers[-1] + 1, len(pairs))
    if not rows:
        raise UserError(f"none of {len(pairs)} pictures could be read; the first: {next(iter(failed.values()))}")
    return Representations(torch.cat(rows, 1), failed)


class Language(NamedTuple):
    """A causal language model with its tokenizer.

    what: digest of the weights, or the run's hash. params: number of parameters. base: for a run's LLM, the LLM that
    stage 2 started from; else "".
    """

    name: str
    model: Any
    tokenizer: Any
    what: str
    params: int
    base: str = ""


def known_language(name: str) -> LLM | Path | Run:
    """What names a language model: one of configs/llms, a folder in hub format, or a run. No weights are read.

    Raises UserError, with similar names, if it is none of these.
    """
    if name in names("llms"):
        return load_llm(name)
    if (Path(name) / "config.json").is_file():
        return Path(name)
    try:
        return saved_run(name)
    except UserError:
        hint = near(name, names("llms"))
        raise UserError(
            f"{name!r} is no LLM of configs/llms ({', '.join(names('llms'))}), no run, and no folder with a "
            f"config.json.{hint}"
        ) from None


def load_language(name: str) -> Language:
    """A language model: one of configs/llms, a run's LLM after stage 2 (by the run's hash), or a folder in hub format.

    Raises UserError, with similar names, if it is none of these, and for weights that can't be read.
    """
    from mllm_eval.model.checkpoint import load_checkpoint, load_llm_model, own_tokenizer

    known = known_language(name)
    if isinstance(known, LLM):
        return _language(name, load_llm_model(known), own_tokenizer(known), known.weights.digest())
    if isinstance(known, Path):
        from transformers import AutoModelForCausalLM

        from mllm_eval.storage import sha256_tree

        model = load_whole(AutoModelForCausalLM.from_pretrained, known, left_out=None, dtype="auto")
        return _language(known.name, model, _tokenizer(known), sha256_tree(known))
    run = known
    model = use_kernels(load_checkpoint(run.checkpoint, encoder=False), run.recipe.kernels)
    name = f"{run.llm.name} after {run.stem}"
    return _language(name, model.llm, model.tokenizer, f"run {run.hash}")._replace(base=run.llm.name)


def _language(name: str, model: Any, tokenizer: Any, what: str) -> Language:
    model.eval().requires_grad_(False)
    return Language(name, model, tokenizer, what, sum(one.numel() for one in model.parameters()))


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    with understood(folder, "its tokenizer cannot be read", "bring it whole"):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


@torch.no_grad()
def of_captions(language: Language, texts: Sequence[str], progress: Progress = unheard) -> Tensor:
    """The mean of each layer's states over a caption's tokens: float32 [layers + 1, samples, width].

    The first layer is the embedding, and the last includes the final norm, as in transformers' `hidden_states`. Tokens
    that the tokenizer adds in front (begin of text) count. Texts of similar length are batched and padded on the right,
    which does not affect a causal model. Raises UserError for a caption without tokens.
    """
    model = language.model.to(device())
    ids = [language.tokenizer(text)["input_ids"] for text in texts]
    if empty := [text for text, one in zip(texts, ids, strict=True) if not one]:
        raise UserError(f"caption {empty[0]!r} has no token in {language.name}; leave its row out")
    order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
    rows: list[Tensor | None] = [None] * len(ids)
    done = 0
    for start in range(0, len(order), BATCH):
        numbers = order[start : start + BATCH]
        width = len(ids[numbers[-1]])
        padded = torch.tensor([[*ids[number], *[0] * (width - len(ids[number]))] for number in numbers])
        mask = torch.tensor([[1] * len(ids[number]) + [0] * (width - len(ids[number])) for number in numbers])
        padded, mask = padded.to(model.device), mask.to(model.device)
        states = model(padded, attention_mask=mask, output_hidden_states=True, use_cache=False).hidden_states
        weights = mask[..., None].float()
        means = torch.stack([(one.float() * weights).sum(1) / weights.sum(1) for one in states]).cpu()
        for at, number in enumerate(numbers):
            rows[number] = means[:, at]
        done += len(numbers)
        progress(done, len(order))
    return torch.stack([one for one in rows if one is not None], 1)
