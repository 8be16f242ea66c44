"""Rewrite exported folders so that transformers 4, to which servers are often pinned, reads them as version 5 does.

transformers 5 writes RoPE settings, vision towers' tensors and the tokenizer's class under names that 4.57 does not
know. Version 4.57 then at most warns, and computes with RoPE base 10,000 and a randomly initialised tower.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

# Vision towers whose class in transformers 4 wraps all modules in another one.
WRAPPED = ("clip_vision_model", "siglip_vision_model")
TOWER, INNER = re.compile(r"((?:model\.)?vision_tower\.)(?!vision_model\.)"), "vision_model."
# Config fields that record local paths at the time of writing, which mean nothing elsewhere.
PLACES = ("_name_or_path", "is_local", "local_files_only")


def write_for_both(folder: Path) -> None:
    """Rename what `save_pretrained` wrote into a folder, so that transformers 4.57 and 5 read the same model."""
    path = folder / "config.json"
    config = _without_places(json.loads(path.read_text(encoding="utf-8")))
    for part in (config, config.get("text_config")):
        if isinstance(part, dict) and isinstance(part.get("rope_parameters"), dict):
            part.update(_rotary(part["rope_parameters"]))
    _write(path, config)
    if config.get("vision_config", {}).get("model_type") in WRAPPED:
        _wrap_tower(folder)
    path = folder / "tokenizer_config.json"
    if path.is_file():
        tokenizer = _without_places(json.loads(path.read_text(encoding="utf-8")))
        if tokenizer.get("tokenizer_class") == "TokenizersBackend":
            tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
        # Only transformers 5 reads a list here; the tokens themselves are in tokenizer.json.
        tokenizer["extra_special_tokens"] = tokenizer.pop("model_specific_special_tokens", {})
        _write(path, tokenizer)


def _rotary(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return `rope_theta` and `rope_scaling`, which are equivalent to `rope_parameters`."""
    scaling = {name: value for name, value in parameters.items() if name != "rope_theta"}
    plain = scaling.get("rope_type", "default") == "default"
    return {"rope_theta": parameters["rope_theta"], "rope_scaling": None if plain else scaling}


def _wrap_tower(folder: Path) -> None:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors = {_wrapped(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            about = file.metadata()
        save_file(tensors, path, metadata=about)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        said = json.loads(index.read_text(encoding="utf-8"))
        said["weight_map"] = {_wrapped(name): file for name, file in said["weight_map"].items()}
        _write(index, said)


def _wrapped(name: str) -> str:
    tower = TOWER.match(name)
    return f"{tower[1]}{INNER}{name[tower.end() :]}" if tower else name


def _without_places(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    return {name: _without_places(value) for name, value in config.items() if name not in PLACES}


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
