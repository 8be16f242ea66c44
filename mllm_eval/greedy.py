"""Find the decoding settings of an external model that greedy decoding must override. Needs no torch.

Names are those of transformers' `GenerationConfig`. A model's generation_config.json applies to every call of
`generate` that does not pass the same field, even for greedy decoding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Fields that change which or how many tokens are generated, each with its neutral values. None, false and empty lists
# are always neutral. Token limits (max_length, max_new_tokens) are missing, as the benchmark sets them.
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
    # 50 is transformers' default, which older versions wrote into the file.
    "top_k": (0, 50),
    "top_p": (1,),
    "typical_p": (1,),
    "watermarking_config": (),
}
# Fields that greedy decoding keeps: the model's begin, end and padding tokens.
KEPT = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


def overruled(folder: Path) -> dict[str, Any]:
    """Return name -> value of the fields of a model that greedy decoding overrides.

    They are in generation_config.json or, for older models, in config.json and its sub-configs.
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
    """Return the fields of a folder's generation_config.json that are kept; None without such a file."""
    path = folder / "generation_config.json"
    said = _read(path)
    return {name: said[name] for name in KEPT if name in said} if path.is_file() else None


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        # Loading the model will report an unreadable file.
        return {}
    return config if isinstance(config, dict) else {}


def _set(said: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: said[name]
        for name, neutral in sorted(DECODING.items())
        if said.get(name) not in (None, False, [], {}) and said[name] not in neutral
    }


def overruled_words(said: Mapping[str, Any] | None) -> str:
    """Return a note on overridden fields; "" if there are none. None as input means a version that did not check."""
    if said is None:
        return "decoded as its generation_config says, where it has one: ask it again to have it greedy"
    if not said:
        return ""
    fields = ", ".join(f"{name} {_short(value)}" for name, value in said.items())
    return f"decoded greedily; overruled of its generation_config: {fields}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."
