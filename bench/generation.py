"""Time the generation engine against the plain one-by-one loop, in the same run and on the same model.

    python bench/generation.py [--width 192] [--depth 6] [--image-tokens 36] [--threads 1] [--rounds 3]

The model is a random LLaMA whose end token is made likely enough that answers have a few tokens, as those of the
benchmarks have. Features are at hand (encoding an image costs the same in both engines if it is done once).
CPU seconds tell more than wall time where other programs share the machine. Medians over the rounds; one
small workload warms both engines up. Writes results/bench/generation.json and prints a table.
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from harness import report
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from mllm_eval.answers import Answer, Journal
from mllm_eval.data.samples import ImageRef, Sample
from mllm_eval.generate import answer

# Images and questions per image: GQA asks 31.6 an image, MME 2, half of the benchmarks one.
WORKLOADS = {"GQA-shaped": (4, 31), "MME-shaped": (48, 2), "one question": (64, 1)}
VOCABULARY, GRID, TEMPLATE, LONGEST = 700, 8, "llama_3", 16
SPECIAL = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
END = SPECIAL.index("<|eot_id|>")


class Words:
    """A token a word: about the length that LLaMA-3's own tokenizer gives."""

    eos_token_id = END

    def __call__(self, text: str | list[str], add_special_tokens: bool) -> dict[str, list[Any]]:
        if isinstance(text, list):
            return {"input_ids": [self(part, add_special_tokens)["input_ids"] for part in text]}
        parts = re.findall(r"<\|\w+\|>| ?\w+|[^\w]", text)
        return {"input_ids": [self._id(part) for part in parts]}

    def _id(self, part: str) -> int:
        few = len(SPECIAL)
        return SPECIAL.index(part) if part in SPECIAL else few + zlib.crc32(part.encode()) % (VOCABULARY - few)

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool) -> str:
        return " ".join(str(token) for token in tokens if token >= len(SPECIAL))


class Model(nn.Module):
    """A random LLaMA behind a linear projector."""

    def __init__(self, width: int, depth: int, image_tokens: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=width * 8 // 3,
            num_hidden_layers=depth,
            num_attention_heads=max(1, width // 32),
            initializer_range=0.08,
        )
        self.llm = LlamaForCausalLM(config).eval()
        self.llm.lm_head.weight.data[END] *= 2.2
        self.tokenizer, self.image_tokens = Words(), image_tokens
        self.project = nn.Linear(64, width)

    def embed(self, features: Tensor) -> Tensor:
        return self.project(features.flatten(1, 2)[:, : self.image_tokens])


def samples(images: int, questions: int) -> list[Sample]:
    """Questions of 6 to 20 words in a random order of images."""
    chance = random.Random(0)
    words = [f"word{number}" for number in range(300)]
    asked = [(image, question) for image in range(images) for question in range(questions)]
    chance.shuffle(asked)
    suffix = "Answer the question using a single word or phrase."
    return [
        Sample(
            benchmark="bench",
            id=f"{image}-{question}",
            images=(ImageRef(f"image {image}", lambda: None),),  # type: ignore[arg-type, return-value]
            prompt=" ".join(chance.choices(words, k=chance.randint(6, 20))) + f"?\n{suffix}",
            target="",
            group="",
            cluster="",
            record={},
        )
        for image, question in asked
    ]


def features_of(tokens: int) -> Any:
    side = max(GRID, int(tokens**0.5) + 1)

    def features(images: list[ImageRef]) -> list[Tensor]:
        seeds = [torch.Generator().manual_seed(zlib.crc32(image.sha256.encode())) for image in images]
        return [torch.randn(side, side, 64, generator=seed) for seed in seeds]

    return features


def run(model: Model, asked: list[Sample], engine: Any) -> tuple[float, float, list[Answer]]:
    """Wall seconds, CPU seconds and the answers."""
    features = features_of(model.image_tokens)
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        answers = answer(model, asked, TEMPLATE, features, LONGEST, Journal(Path(folder) / "a.jsonl"), engine=engine)
        return time.perf_counter() - wall, time.process_time() - cpu, answers


def measure(model: Model, name: str, rounds: int) -> dict[str, Any]:
    """One workload in both engines, by turns."""
    asked = samples(*WORKLOADS[name])
    times: dict[str, list[tuple[float, float]]] = {"batched": [], "reference": []}
    answers: dict[str, list[Answer]] = {}
    for _ in range(rounds):
        for engine, taken in times.items():
            wall, cpu, answers[engine] = run(model, asked, engine)
            taken.append((wall, cpu))
    same = sum(one == other for one, other in zip(*answers.values(), strict=True))
    row: dict[str, Any] = {"workload": name, "samples": len(asked), "same_answers": same}
    row["distinct_answers"] = len({answer.text for answer in answers["reference"]})
    row["mean_tokens_in"] = statistics.mean(answer.tokens_in for answer in answers["reference"])
    row["mean_tokens_out"] = statistics.mean(answer.tokens_out for answer in answers["reference"])
    for at, clock in enumerate(("wall", "cpu")):
        for engine, taken in times.items():
            row[f"{engine}_{clock}_seconds"] = statistics.median(one[at] for one in taken)
        row[f"{clock}_speedup"] = row[f"reference_{clock}_seconds"] / row[f"batched_{clock}_seconds"]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for option, default in (("width", 192), ("depth", 6), ("image-tokens", 36), ("threads", 1), ("rounds", 3)):
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = Model(options.width, options.depth, options.image_tokens)
    for engine in ("batched", "reference"):
        run(model, samples(4, 2), engine)
    rows = [measure(model, name, options.rounds) for name in WORKLOADS]
    settings = {key: value for key, value in vars(options).items() if key != "out"}
    report("generation", {**settings, "torch": torch.__version__}, rows, options.out)


if __name__ == "__main__":
    main()
