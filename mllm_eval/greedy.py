"""What an external model's own files say of decoding, and how much of it greedy decoding overrules; no torch.

Words are those of transformers' `GenerationConfig`. A model's generation_config.json is in force in every call of
`generate` that does not name the same field, greedy or not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Fields that change which tokens are written, or how many, each with values that change nothing. None, false and
# empty lists never do. Limits in tokens (max_length, max_new_tokens) are the benchmark's anyway.
DECODING: dict[str, tuple[float, ...]] = {
    "begin_suppress_tokens": (),
    "bad_words_ids": (),
    "constraints": (),
    "diversity_penalty": (0,),
    "do_sample": (),
    "dola_layers": (),
    "early_stopping": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": (),
    "forced_bos_token_id": (),
    "forced_decoder_ids": (),
    "forced_eos_token_id": (),
    "guidance_scale": (1,),
    "length_penalty": (1,),
    "max_time": (),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "min_p": (0,),
    "no_repeat_ngram_size": (0,),
    "num_beam_groups": (1,),
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "penalty_alpha": (0,),
    "remove_invalid_values": (),
    "renormalize_logits": (),
    "repetition_penalty": (1,),
    "sequence_bias": (),
    "stop_strings": (),
    "suppress_tokens": (),
    "temperature": (1,),
    "token_healing": (),
    "top_h": (),
    # transformers' own default, which older versions wrote out.
    "top_k": (0, 50),
    "top_p": (1,),
    "typical_p": (1,),
    "watermarking_config": (),
}
# Which tokens begin, end and fill an answer is the model's.
KEPT = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


def overruled(folder: Path) -> dict[str, Any]:
    """The fields of a model's folder that greedy decoding overrules, by name.

    They stand in generation_config.json, or, in older models, in config.json and its parts.
    """
    path = folder / "generation_config.json"
    if path.is_file():
        return _set(_read(path))
    config = _read(folder / "config.json")
    settings: dict[str, Any] = {}
    for part in (*(value for value in config.values() if isinstance(value, dict)), config):
        settings |= _set(part)
    return dict(sorted(settings.items()))


def kept(folder: Path) -> dict[str, Any] | None:
    """The fields of a folder's generation_config.json that stay in force, or None where it has no such file."""
    path = folder / "generation_config.json"
    said = _read(path)
    return {name: said[name] for name in KEPT if name in said} if path.is_file() else None


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        # What cannot be read is refused when the model is loaded.
        return {}
    return config if isinstance(config, dict) else {}


def _set(said: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: said[name]
        for name, neutral in sorted(DECODING.items())
        if said.get(name) not in (None, False, [], {}) and said[name] not in neutral
    }


def overruled_words(said: Mapping[str, Any] | None) -> str:
    """What was overruled, in words; "" where nothing was. None: nobody had looked."""
    if said is None:
        return "decoded as its generation_config says, where it has one: ask it again to have it greedy"
    if not said:
        return ""
    fields = ", ".join(f"{name} {_short(value)}" for name, value in said.items())
    return f"decoded greedily; overruled of its generation_config: {fields}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."
