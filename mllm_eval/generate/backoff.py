"""Keep batches within memory: limits from a number of bytes, halved whenever memory runs out."""

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

# Texts by which torch and its libraries report a lack of memory in errors without a class of their own.
SAYINGS = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
VARIABLE = "MLLM_EVAL_ANSWERS_BYTES"
CGROUP = Path("/sys/fs/cgroup")


class Backoff:
    """Lets a backend answer batches. When memory runs out, the rest is answered in smaller batches."""

    def __init__(self, backend: Backend, say: Callable[[str], None] | None = None) -> None:
        """`say` receives a line whenever the limits are halved."""
        self.backend, self.say = backend, say
        self.planned_for = backend.limits
        """The limits to plan batches for: those before any halving."""

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """Answer a planned batch at once or, after memory has run out, in smaller batches.

        Raises UserError where memory runs out on a single question; other errors propagate.
        """
        return self.compute(requests, self.backend.generate)

    def compute(self, requests: Sequence[Request], generate: Callable[[Sequence[Request]], Sequence[T]]) -> list[T]:
        """Call any `generate` on requests and return its results in their order; see `Backoff.generate`."""
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
        # Only outside the `except` block are the tensors of the failed attempt released.
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
        # The batch may be far below the limits, so halving them alone might not make it smaller.
        smaller = replace(limits, rows=min(limits.rows, len(part) // 2))
        return [batch.requests for batch in self.backend.plan(part, smaller)]


def halved(limits: Limits) -> Limits:
    """Return the limits with tokens, rows and tokens per pass halved (at least 1)."""
    parts = (limits.tokens, limits.rows, limits.pass_tokens)
    tokens, rows, pass_tokens = (max(1, part // 2) for part in parts)
    return replace(limits, tokens=tokens, rows=rows, pass_tokens=pass_tokens)


def ran_out(problem: BaseException) -> bool:
    """Whether an error reports that memory ran out, on a GPU or a CPU."""
    import torch

    if isinstance(problem, MemoryError | torch.OutOfMemoryError):
        return True
    return any(saying in str(problem).lower() for saying in SAYINGS)


def kept_limits(path: Path, model: Any) -> Limits:
    """Return the limits in the file `path`; if there are none, choose limits for this device and save them there.

    So a run that resumes on another machine, or with less free memory, still computes the batches it was planned in.
    $MLLM_EVAL_ANSWERS_BYTES, where set, replaces saved limits. Raises UserError where its value is no size.
    """
    given = os.environ.get(VARIABLE)
    try:
        if not given:
            kept = Limits(**read_json(path))
            if all(type(part) is int and part > 0 for part in asdict(kept).values()):
                return kept
    except (UserError, TypeError):
        # Missing or damaged: other limits change nothing but rounding.
        pass
    limits = limits_for(model, given)
    write_json(path, asdict(limits))
    return limits


def limits_for(model: Any, given: str | None = None) -> Limits:
    """Return the limits for a model on its present device.

    Without `given` these are the default limits, unless half of the free memory holds fewer tokens. With `given`, a
    size like `20GB`, the limits use that much memory, and may exceed the defaults. Raises UserError where it is no
    size.
    """
    token = token_bytes(model.llm)
    if given:
        return limits_within(parse_bytes(given, VARIABLE), token, more=True)
    return limits_within(free_bytes(next(model.llm.parameters()).device) // 2, token)


def limits_within(budget: int, token: int, more: bool = False) -> Limits:
    """Return the default limits, with fewer tokens where `budget` bytes hold fewer; with `more`, also with more.

    `token`: bytes of one token's keys and values. The budget counts them twice, as a cache is copied when finished
    rows leave it. Tokens are a power of two, so that a slightly different budget plans the same batches.
    """
    default = Limits()
    tokens = 2 ** (max(1, budget // (2 * token)).bit_length() - 1)
    if tokens > default.tokens:
        return replace(default, tokens=tokens, rows=default.rows * tokens // default.tokens) if more else default
    return replace(default, tokens=tokens)


def token_bytes(llm: Any) -> int:
    """Return the bytes of one token's keys and values in all layers of a `LlamaForCausalLM`."""
    config, weight = llm.config, next(llm.parameters())
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * config.num_key_value_heads * width * weight.element_size())


def free_bytes(device: Any) -> int:
    """Return the free bytes of a model's device: of the GPU, or of main memory within the process's cgroup limit."""
    import torch

    if torch.device(device).type == "cuda":
        # Memory that torch's allocator has reserved but does not use is free, too.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + kept)
    free = available_memory()
    try:
        most = int((CGROUP / "memory.max").read_text())
        # `memory.current` would also count the page cache, which the kernel frees when needed.
        used = int((CGROUP / "memory.stat").read_text().split()[1])
    except (OSError, ValueError):
        return free
    return max(0, min(free, most - used))


def available_memory() -> int:
    """Return the bytes of main memory that the system can give to processes, whatever a cgroup allows."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        # Without /proc/meminfo (not Linux), assume that half of the physical memory is free.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
