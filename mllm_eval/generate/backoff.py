"""Batches within memory: as large as a number of bytes allows, and halved where it runs out all the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from mllm_eval.answers import Answer
from mllm_eval.environment import parse_bytes
from mllm_eval.errors import UserError
from mllm_eval.generate.backend import Backend
from mllm_eval.generate.batching import Limits
from mllm_eval.generate.request import Request
from mllm_eval.storage import read_json, write_json

T = TypeVar("T")

# What torch and its libraries say where memory runs out and the error has no class of its own.
SAYINGS = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
VARIABLE = "MLLM_EVAL_ANSWERS_BYTES"
CGROUP = Path("/sys/fs/cgroup")


class Backoff:
    """Has a backend answer batches; where memory runs out, what follows is smaller, and what was answered stays."""

    def __init__(self, backend: Backend, say: Callable[[str], None] | None = None) -> None:
        """`say` is told in a line what was halved."""
        self.backend, self.say = backend, say
        self.planned_for = backend.limits
        """The limits that batches are to be planned for."""

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """The answers to a planned batch, in one go or, once memory has run out, in smaller ones.

        Raises UserError where it runs out on a single question; any other error goes through.
        """
        return self.compute(requests, self.backend.generate)

    def compute(self, requests: Sequence[Request], generate: Callable[[Sequence[Request]], Sequence[T]]) -> list[T]:
        """As `generate`, with something else that is made of requests."""
        waiting: list[Sequence[Request]] = [requests]
        if self.backend.limits != self.planned_for:
            waiting = [batch.requests for batch in self.backend.plan(requests, self.backend.limits)]
        made: dict[Request, T] = {}
        while waiting:
            part = waiting.pop(0)
            answers = self._tried(part, generate)
            if answers is None:
                waiting[:0] = self._halved(part)
            else:
                made |= zip(part, answers, strict=True)
        return [made[request] for request in requests]

    def _tried(
        self, part: Sequence[Request], generate: Callable[[Sequence[Request]], Sequence[T]]
    ) -> Sequence[T] | None:
        try:
            return generate(part)
        except (RuntimeError, MemoryError) as problem:
            if not ran_out(problem):
                raise
        # Out here nothing holds the tensors of the attempt any more.
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None

    def _halved(self, part: Sequence[Request]) -> list[Sequence[Request]]:
        tokens = self.backend.count_tokens(part[0])
        if len(part) == 1:
            length = "" if tokens is None else f" of {tokens:,} tokens"
            raise UserError(
                f"memory ran out on a single question{length}; give the model a device with more memory, "
                "or load it in a smaller dtype (a recipe's `dtype`, an external model's --dtype). "
                "What was answered is kept"
            )
        limits = self.backend.limits = halved(self.backend.limits)
        if self.say:
            less = "" if tokens is None else ", and half the tokens"
            self.say(f"memory ran out: from here on {limits.rows} questions at a time{less}")
        # This batch may have been far from the limits, and must become smaller all the same.
        smaller = replace(limits, rows=min(limits.rows, len(part) // 2))
        return [batch.requests for batch in self.backend.plan(part, smaller)]


def halved(limits: Limits) -> Limits:
    """Half of everything that takes memory."""
    parts = (limits.tokens, limits.rows, limits.pass_tokens)
    tokens, rows, pass_tokens = (max(1, part // 2) for part in parts)
    return replace(limits, tokens=tokens, rows=rows, pass_tokens=pass_tokens)


def ran_out(problem: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on a CPU."""
    import torch

    if isinstance(problem, MemoryError | torch.OutOfMemoryError):
        return True
    return any(saying in str(problem).lower() for saying in SAYINGS)


def kept_limits(path: Path, model: Any) -> Limits:
    """The limits that the file `path` has from an earlier command, else those for this machine, which it keeps.

    A run that goes on elsewhere, or beside other programs, so meets the batches that it was planned in. Where
    $MLLM_EVAL_ANSWERS_BYTES is set it decides anew; raises UserError where that is no size.
    """
    given = os.environ.get(VARIABLE)
    try:
        if not given:
            kept = Limits(**read_json(path))
            if all(type(part) is int and part > 0 for part in asdict(kept).values()):
                return kept
    except (UserError, TypeError):
        # Not there, or damaged: the worst that can come of it is another rounding.
        pass
    limits = limits_for(model, given)
    write_json(path, asdict(limits))
    return limits


def limits_for(model: Any, given: str | None = None) -> Limits:
    """What a model answers at a time on the device it is on.

    Without `given` these are the default limits, the same on every machine, unless half of the memory that is free
    holds fewer tokens. `given` (`20GB`) is used up, for fewer questions at a time or for more. Raises UserError
    where that is no size.
    """
    token = token_bytes(model.llm)
    if given:
        return limits_within(parse_bytes(given, VARIABLE), token, more=True)
    return limits_within(free_bytes(next(model.llm.parameters()).device) // 2, token)


def limits_within(budget: int, token: int, more: bool = False) -> Limits:
    """The default limits, with fewer tokens (or `more`, and rows to match) as `budget` bytes hold them.

    `token` is what a token's keys and values take. They are held twice for moments, when rows have left. Tokens are
    a power of two: a budget that varies a little plans the same batches.
    """
    default = Limits()
    tokens = 2 ** (max(1, budget // (2 * token)).bit_length() - 1)
    if tokens > default.tokens:
        return replace(default, tokens=tokens, rows=default.rows * tokens // default.tokens) if more else default
    return replace(default, tokens=tokens)


def token_bytes(llm: Any) -> int:
    """Bytes of a token's keys and values in a `LlamaForCausalLM`."""
    config, weight = llm.config, next(llm.parameters())
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * config.num_key_value_heads * width * weight.element_size())


def free_bytes(device: Any) -> int:
    """Memory that nobody uses on a model's device: the GPU's, or this machine's as far as its cgroup gives it."""
    import torch

    if torch.device(device).type == "cuda":
        # What torch keeps for itself after a training is free, too.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + kept)
    free = _available()
    try:
        most = int((CGROUP / "memory.max").read_text())
        # Pages of files that were read count there, too, and are given back when they are needed.
        used = int((CGROUP / "memory.stat").read_text().split()[1])
    except (OSError, ValueError):
        return free
    return max(0, min(free, most - used))


def _available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        # Elsewhere half of what the machine has.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
