"""`make mini-weights`: the miniature's four sets of weights, made from nothing, measured, and written with their cards.

Run again after a kill it goes on from the last checkpoint of each; weights that are whole are not made again.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoTokenizer, Dinov2Model, PreTrainedModel, PreTrainedTokenizerFast

from mllm_eval.errors import UserError, near
from mllm_eval.miniature.pretrain import contrastive, distillation, language
from mllm_eval.miniature.pretrain.cards import encoder_card, llm_card
from mllm_eval.miniature.pretrain.corpus import tokenizer_texts
from mllm_eval.miniature.pretrain.images import pictures
from mllm_eval.miniature.pretrain.probe import Encode, probe
from mllm_eval.miniature.textrich import Pool
from mllm_eval.miniature.tokenizer import train_tokenizer
from mllm_eval.storage import read_json, write_json

WEIGHTS = Path(__file__).parents[1] / "weights"
STEPS = {"mini-clip": 3000, "mini-dino": 4200}
NAMES = ("mini-llama", "mini-random", "mini-clip", "mini-dino")


def make(
    work: Path,
    names: tuple[str, ...] = NAMES,
    out: Path = WEIGHTS,
    threads: int = 1,
    steps: dict[str, int] | None = None,
    pool: Pool | None = None,
    seed: int = 0,
) -> None:
    """Makes what is missing among `names` in `out`; checkpoints of unfinished ones live in `work`.

    One thread is the default, for sums then have one order: the same steps give the same weights. pool: the pictures
    that mini-dino is trained on, instead of new ones at every step; the others read captions or nothing.
    Raises UserError for an unknown name, a pool for others than mini-dino, and for weights of mini-dino in `out`, or a
    checkpoint in `work`, that were made with other steps, of another corpus or seed.
    """
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    if unknown := [name for name in names if name not in NAMES]:
        raise UserError(f"unknown weights {unknown[0]!r}.{near(unknown[0], NAMES)} Known: {', '.join(NAMES)}")
    if (pool is not None or seed) and set(names) != {"mini-dino"}:
        raise UserError("a corpus or a seed is mini-dino's: add --only mini-dino")
    plan = {**STEPS, **(steps or {})}
    # Training it takes a minute, and encoders of pictures alone need none.
    tokenizer = _tokenizer(work) if set(names) & {"mini-llama", "mini-clip"} else cast(PreTrainedTokenizerFast, None)
    makers: dict[str, Callable[[], None]] = {
        "mini-llama": lambda: _llama(tokenizer, work, out),
        "mini-random": lambda: _random(out),
        "mini-clip": lambda: _clip(tokenizer, work, plan["mini-clip"], out),
        "mini-dino": lambda: _dino(work, plan["mini-dino"], out, pool, seed),
    }
    if "mini-dino" in names:
        _hold_to(work, out / "mini-dino", plan["mini-dino"], pool, seed)
    for name in names:
        if (out / name / "model.safetensors").exists() and (out / name / "README.md").exists():
            print(f"{name}: whole, nothing to do")
            continue
        clock = time.perf_counter()
        makers[name]()
        print(f"{name}: written to {out / name} after {(time.perf_counter() - clock) / 60:.1f} min")


def _hold_to(work: Path, folder: Path, steps: int, pool: Pool | None, seed: int) -> None:
    """Compares what is asked with what weights, or the checkpoint of unfinished ones, were made with."""
    asked = {"steps": steps, "corpus": None if pool is None else pool.about["keys"], "seed": seed}
    begun = work / "mini-dino.json"
    if (measured := folder / "measured.json").is_file():
        told = read_json(measured)
        before = {"steps": told["steps"], "corpus": told.get("corpus", {}).get("keys"), "seed": told.get("seed", 0)}
        place = folder
    elif begun.is_file():
        before, place = read_json(begun), begun
    else:
        write_json(begun, asked)
        return
    for name, value in asked.items():
        if before.get(name) != value:
            what = "another corpus" if name == "corpus" else f"{name} {before.get(name)}, not {value}"
            raise UserError(f"{place}: made with {what}; say another --out, or remove it and what is beside it")


def _tokenizer(work: Path) -> PreTrainedTokenizerFast:
    folder = work / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        train_tokenizer(tokenizer_texts()).save_pretrained(folder)
    return cast(
        PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    )


def _write(
    model: nn.Module,
    folder: Path,
    card: str,
    measured: dict[str, Any],
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> None:
    """Half precision on disk keeps the repository small; whoever loads it computes in its own precision."""
    temporary = folder.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    half = cast(Any, model)
    half.to(torch.float16).save_pretrained(temporary)
    if tokenizer is not None:
        tokenizer.save_pretrained(temporary)
    (temporary / "README.md").write_text(card)
    (temporary / "measured.json").write_text(json.dumps(measured, indent=1) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def _as_stored(model: PreTrainedModel) -> None:
    """Rounds the weights to what will be on disk, so that what is measured is what ships."""
    cast(Any, model).to(torch.float16).to(torch.float32)
    model.train(False)


def _history(log: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return {"first": lines[0], "last": lines[-1]}


def _llama(tokenizer: PreTrainedTokenizerFast, work: Path, out: Path) -> None:
    model, logs = language.pretrain(tokenizer, work)
    _as_stored(model)
    looked_up = {
        task: language.look_up_accuracy(model, tokenizer, task)
        for task in ("caption", "copy", "letter", "choice", "open")
    }
    measured = {
        "steps": sum(steps for _, _, steps, _ in language.PHASES),
        "log": {"first": _history(logs[0])["first"], "last": _history(logs[-1])["last"]},
        "look_up": looked_up,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    _write(model, out / "mini-llama", llm_card(measured), measured, tokenizer)


def _encoder(
    name: str,
    model: PreTrainedModel,
    steps: int,
    log: Path | None,
    out: Path,
    encode: Encode | None = None,
    told: dict[str, Any] | None = None,
) -> None:
    _as_stored(model)
    with torch.no_grad():
        probes = probe(encode or (lambda x: model(x).last_hidden_state[:, 1:]))
    measured: dict[str, Any] = {
        "steps": steps,
        "images": steps * distillation.BATCH,
        "probes": probes,
        "parameters": sum(p.numel() for p in model.parameters()),
        **(told or {}),
    }
    if log is not None:
        measured["log"] = _history(log)
    floor = out / "mini-random" / "measured.json"
    if told and not floor.exists():
        floor = WEIGHTS / "mini-random" / "measured.json"
    random = json.loads(floor.read_text())["probes"] if floor.exists() else probes
    _write(model, out / name, encoder_card(name, measured, random), measured)


def _random(out: Path) -> None:
    torch.manual_seed(0)
    _encoder("mini-random", Dinov2Model(distillation.config()), 0, None, out)


def _clip(tokenizer: PreTrainedTokenizerFast, work: Path, steps: int, out: Path) -> None:
    model, log = contrastive.pretrain(tokenizer, work, steps)
    _encoder("mini-clip", model, steps, log, out)


def _dino(work: Path, steps: int, out: Path, pool: Pool | None, seed: int) -> None:
    shown_in = pictures if pool is None else pool.pictures
    model, log = distillation.pretrain(work, steps, shown_in=shown_in, seed=seed)
    told = {} if pool is None else {"corpus": pool.about, "seed": seed}
    _encoder("mini-dino", model, steps, log, out, lambda x: distillation.features(model, x), told)
