"""Read a LLaMA from a GGUF file: its dequantised weights under transformers' names, and its tokenizer.

transformers' own `from_pretrained(gguf_file=...)` is used for sentencepiece tokenizers only, for these reasons:
- A model loaded by it counts as quantised and refuses `.float()`.
- It ignores `rope_freqs.weight`, which holds LLaMA 3.1's RoPE scaling.
- It splits texts of SmolLM2's byte-level tokenizer as GPT-2's does (transformers 5.23).
- It adds an unknown token beyond the vocabulary to a byte-level tokenizer that has none (5.23).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mllm_eval.adapters.loading import first_line, understood
from mllm_eval.catalog.gguf import name_in_transformers
from mllm_eval.errors import UserError
from mllm_eval.hub.gguf_header import KINDS, GgufTensor, read_gguf

EXTRA = 'needs the package gguf: pip install "mllm-eval[gguf]"'
# Values of `tokenizer.ggml.pre`, the pre-tokeniser: LLaMA 3's, GPT-2's, and SmolLM's, which separates digits.
LLAMA3 = ("llama-bpe", "llama3", "llama-v3")
GPT2 = ("gpt-2",)
DIGITS = ("smollm",)
# The regular expression of the pre-tokeniser in LLaMA 3's tokenizer.json.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
# Token types (`tokenizer.ggml.token_type`): control tokens and user-defined ones.
CONTROL, GIVEN = 3, 4


def dequantised(path: Path, heads: int, kv_heads: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return a file's dequantised tensors by their names in `LlamaForCausalLM`.

    llama.cpp's converter permutes the rows of query and key weights so that the two dimensions that RoPE rotates
    together are adjacent. transformers keeps them half a head apart, so the permutation is undone. Tied embeddings
    are stored once.

    Raises UserError without the package gguf, and for a type that it cannot dequantise.
    """
    quants = _package(path)
    data = np.memmap(path, np.uint8, "r")
    tensors = {}
    for name, facts in read_gguf(path).tensors.items():
        target = name_in_transformers(name)
        tensor = torch.from_numpy(_numbers(quants, data, name, facts, path))
        for part, count in (("q_proj", heads), ("k_proj", kv_heads)):
            if f"self_attn.{part}." in target:
                tensor = _laid_back(tensor, count)
        tensors[target] = tensor.to(dtype)
    return tensors


def _package(path: Path) -> Any:
    try:
        from gguf import quants
    except ImportError:
        raise UserError(f"{path}: {EXTRA}") from None
    return quants


def _numbers(quants: Any, data: NDArray[np.uint8], name: str, facts: GgufTensor, path: Path) -> NDArray[np.float32]:
    kind, block, each = KINDS[facts.kind]
    raw = data[facts.start : facts.start + facts.size].reshape(*facts.shape[:-1], facts.shape[-1] // block * each)
    try:
        values = quants.dequantize(raw, _type(facts.kind))
    except (NotImplementedError, ValueError, KeyError) as problem:
        raise UserError(f"{path}: {name} of type {kind} cannot be dequantised ({first_line(problem)})") from None
    # Copied, because the memory-mapped file is closed later.
    return np.array(values, np.float32).reshape(facts.shape)


def _type(kind: int) -> Any:
    from gguf.constants import GGMLQuantizationType

    return GGMLQuantizationType(kind)


def _laid_back(tensor: Tensor, heads: int) -> Tensor:
    pairs: Tensor = tensor.reshape(heads, -1, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape)


def held_shapes(path: Path) -> dict[str, GgufTensor]:
    """Return the facts of a file's tensors by transformers' names, without reading the tensors."""
    return {name_in_transformers(name): facts for name, facts in read_gguf(path).tensors.items()}


def gguf_tokenizer(path: Path) -> Any:
    """Return the tokenizer of a GGUF file. Raises UserError if it has none, or one of an unsupported kind."""
    said = read_gguf(path).metadata
    kind, cut = said.get("tokenizer.ggml.model"), said.get("tokenizer.ggml.pre")
    mend = "name another in the yaml: `tokenizer: {path: a folder with tokenizer.json}`"
    if not isinstance(kind, str) or not isinstance(said.get("tokenizer.ggml.tokens"), list):
        raise UserError(f"{path}: has no tokenizer; {mend}")
    if kind not in ("llama", "gpt2"):
        raise UserError(f"{path}: its tokenizer is of kind {kind!r}, a LLaMA's here are 'llama' and 'gpt2'; {mend}")
    if kind == "gpt2" and str(cut) not in (*LLAMA3, *GPT2, *DIGITS):
        raise UserError(f"{path}: its tokenizer cuts texts as {cut!r}, which is not known here; {mend}")
    with understood(path, "its tokenizer cannot be read", mend):
        if kind == "gpt2":
            return byte_level_tokenizer(said, str(cut))
        _package(path)
        from transformers import AutoTokenizer

        options: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True, "trust_remote_code": False}
        return AutoTokenizer.from_pretrained(path.parent, **options)


def byte_level_tokenizer(said: Mapping[str, Any], cut: str) -> Any:
    """Return the tokenizer that a file's metadata describe, of LLaMA 3's, GPT-2's or SmolLM's kind (`cut`)."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words: list[str] = said["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ", 1)) for pair in said.get("tokenizer.ggml.merges", [])]
    # In LLaMA 3, a piece of text that is itself a token is not split by merges (`ignore_merges`).
    model = models.BPE(vocab={word: at for at, word in enumerate(words)}, merges=merges, ignore_merges=cut in LLAMA3)
    backend = Tokenizer(model)
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cut not in LLAMA3)
    if cut in LLAMA3:
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT), "isolated"), letters])
    elif cut in DIGITS:
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), letters])
    else:
        backend.pre_tokenizer = letters
    backend.decoder = decoders.ByteLevel()
    kinds = said.get("tokenizer.ggml.token_type", ())
    added = [(word, kind) for word, kind in zip(words, kinds, strict=False) if kind in (CONTROL, GIVEN)]
    backend.add_special_tokens([AddedToken(word, normalized=False) for word, kind in added if kind == CONTROL])
    backend.add_tokens([AddedToken(word, normalized=False) for word, kind in added if kind == GIVEN])
    roles = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    known = {role: said.get(f"tokenizer.ggml.{name}_token_id") for role, name in roles.items()}
    marks: dict[str, Any] = {f"{role}_token": words[at] for role, at in known.items() if at is not None}
    # llama.cpp adds LLaMA 3's begin token unless the file says otherwise.
    if "bos_token" in marks and said.get("tokenizer.ggml.add_bos_token", cut in LLAMA3):
        begin = marks["bos_token"]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", pair=f"{begin} $A {begin}:1 $B:1", special_tokens=[(begin, known["bos"])]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=said.get("tokenizer.chat_template"), **marks)  # type: ignore[no-untyped-call]
