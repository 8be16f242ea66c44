"""Shared parts of the timings of generation: random models of realistic shapes, images, questions, and two ways to ask.

The plain way is that of common evaluation loops: for every question the image is decoded and encoded again, and the
answer is generated at batch size 1 (`engine: reference`). This project's way is `answer_tasks` with its engine.
"""

from __future__ import annotations

import operator
import random
import re
import statistics
import tempfile
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from photographs import picture

from mllm_eval.environment import before_torch

before_torch()

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig  # noqa: E402

from mllm_eval.answers import Answer, Journal  # noqa: E402
from mllm_eval.catalog import Encoder  # noqa: E402
from mllm_eval.data.samples import ImageRef, Sample  # noqa: E402
from mllm_eval.features import Features, FeatureStore  # noqa: E402
from mllm_eval.generate import Request, Task, TemplateFormat, answer_tasks  # noqa: E402
from mllm_eval.generate.engine import Engine  # noqa: E402
from mllm_eval.generate.model import end_tokens, grid_of  # noqa: E402
from mllm_eval.generate.reference import answer_one  # noqa: E402
from mllm_eval.generate.request import write_request  # noqa: E402
from mllm_eval.generate.tokenized import TokenizedPrompts  # noqa: E402
from mllm_eval.kernels import use_kernels  # noqa: E402
from mllm_eval.model.vlm import VLM, VLMConfig  # noqa: E402
from mllm_eval.prompts import PromptTokens, template_named  # noqa: E402

# Answers of most benchmarks are one word or one letter, so LONGEST is 4 tokens.
TEMPLATE, LONGEST, PATCH = "llama_3", 4, 14
SPECIAL = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>"]
END = SPECIAL.index("<|eot_id|>")
# Width, layers, attention heads, key-value heads, width of the MLP, vocabulary.
LLMS = {
    "8x256": (256, 8, 8, 8, 682, 2048),
    "SmolLM-135M": (576, 30, 9, 3, 1536, 49152),
    "2x32": (32, 2, 4, 2, 64, 300),
}
# Width, layers, heads, width of the MLP, pixels. Features are of the second-last layer, as in LLaVA and Cambrian.
# 112 pixels give 64 patches, the image tokens of recipe `desk`; LLaVA's class cannot reduce patches to fewer tokens.
ENCODERS = {
    "ViT-S/14@336": (384, 12, 6, 1536, 336),
    "ViT-S/14@112": (384, 12, 6, 1536, 112),
    "2x32@56": (32, 2, 2, 64, 56),
}


class Words:
    """A tokenizer with one token per word, which gives about as many tokens as LLaMA-3's tokenizer."""

    eos_token_id = END

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    def __call__(self, text: str | list[str], add_special_tokens: bool) -> dict[str, list[Any]]:
        if isinstance(text, list):
            return {"input_ids": [self(part, add_special_tokens)["input_ids"] for part in text]}
        return {"input_ids": [self._id(part) for part in re.findall(r"<\|\w+\|>| ?\w+|[^\w]", text)]}

    def _id(self, part: str) -> int:
        few = len(SPECIAL)
        return SPECIAL.index(part) if part in SPECIAL else few + zlib.crc32(part.encode()) % (self.vocabulary - few)

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool) -> str:
        return " ".join(str(token) for token in tokens if token >= len(SPECIAL))


def encoder_facts(name: str) -> Encoder:
    """The facts of an encoder of `ENCODERS`, as its yaml would give them."""
    width, depth, heads, hidden, size = ENCODERS[name]
    config = CLIPVisionConfig(hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads,
                              intermediate_size=hidden, image_size=size, patch_size=PATCH)  # fmt: skip
    with torch.device("meta"):
        params = sum(weight.numel() for weight in CLIPVisionModel(config).parameters())
    grey = (0.5, 0.5, 0.5)
    facts = {"pretraining_data": "none", "samples_seen": "0", "supervision": "none"}
    shown = {"mode": "pad", "size": size, "mean": grey, "std": grey}
    return Encoder(name="bench", family="clip", weights={"path": "none"}, patch=PATCH, width=width, depth=depth,
                   params=params, norm=False, summary="cls", feature_layer=-2, preprocessing=shown,
                   facts=facts)  # type: ignore[arg-type]  # fmt: skip


def build(
    encoder: str,
    llm: str,
    vocabulary: int | None = None,
    tokenizer: Any = None,
    end: int = END,
    image: int = SPECIAL.index("<image>"),
    hide: bool = False,
) -> VLM:
    """A random model. Its end token is likely enough that answers have a few tokens, like those of benchmarks.

    hide: rows of image tokens end with a learned token, and padding tokens are left out, as in recipe `cambrian`.
    """
    torch.manual_seed(0)
    facts = encoder_facts(encoder)
    width, depth, heads, key_heads, hidden, words = LLMS[llm]
    vision = CLIPVisionConfig(hidden_size=facts.width, num_hidden_layers=facts.depth,
                              num_attention_heads=ENCODERS[encoder][2], intermediate_size=ENCODERS[encoder][3],
                              image_size=facts.preprocessing.size, patch_size=PATCH)  # fmt: skip
    text = LlamaConfig(vocab_size=vocabulary or words, hidden_size=width, intermediate_size=hidden,
                       num_hidden_layers=depth, num_attention_heads=heads, num_key_value_heads=key_heads,
                       initializer_range=0.08, max_position_embeddings=4096)  # fmt: skip
    config = VLMConfig(encoder=facts.model_dump(mode="json"), vision_config=vision.to_dict(),
                       text_config=text.to_dict(), tokens=facts.grid**2, template=TEMPLATE,
                       row_token=hide, hide=hide, image_token_id=image, dtype="float32")  # fmt: skip
    model = VLM(config)
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.llm.parameters():
            if weight.dim() > 1:
                # A variance large enough that different questions get different answers.
                weight.normal_(0, 2 / weight.shape[1] ** 0.5, generator=chance)
        model.llm.lm_head.weight[end] *= 2.5
    model.tokenizer = tokenizer or Words(text.vocab_size)
    return model.eval()


def samples(
    asked: Sequence[int], name: str = "bench", shapes: Sequence[tuple[int, int]] = ((640, 480),)
) -> list[Sample]:
    """Random questions of 6 to 20 words, in random order. asked: number per image. shapes: of the images, in turn."""
    chance = random.Random(0)
    words = [f"word{number}" for number in range(300)]
    order = [(image, question) for image, count in enumerate(asked) for question in range(count)]
    chance.shuffle(order)
    shown = [picture(number, shapes[number % len(shapes)]) for number in range(len(asked))]
    suffix = "Answer the question using a single word or phrase."
    return [
        Sample(name, f"{image}-{question}", (shown[image],),
               " ".join(chance.choices(words, k=chance.randint(6, 20))) + f"?\n{suffix}", "", "", "", {})
        for image, question in order
    ]  # fmt: skip


def shared_way(model: VLM, asked: list[Sample], folder: Path, name: str, template: str = TEMPLATE) -> list[Answer]:
    """Answer in this project's way. It is cold if the feature store in `folder` is empty, and warm if it is full."""
    facts = Encoder.model_validate(model.config.encoder)
    store = FeatureStore(folder / "features", (facts.grid, facts.grid), facts.width)
    features = Features(store, lambda: model.encoder)  # type: ignore[arg-type, return-value]
    journal = Journal(folder / f"{name}.jsonl")
    features.fill([image for sample in asked for image in sample.images])
    answer_tasks(Engine(model, template, features), [Task(asked, LONGEST, journal, TemplateFormat(template))])
    done = journal.done()
    return [done[sample.id] for sample in asked]


def shared_way_once(model: VLM, asked: list[Sample], template: str = TEMPLATE) -> list[Answer]:
    """`shared_way` in a temporary folder, as a warm-up: libraries are loaded and kernels are chosen afterwards."""
    with tempfile.TemporaryDirectory(prefix="mllm-eval-bench-") as folder:
        return shared_way(use_kernels(model), asked, Path(folder), "once", template)


@torch.inference_mode()
def plain_way(model: VLM, asked: list[Sample], made: Made | None = None) -> list[tuple[str, int]]:
    """Text and number of tokens of each answer in the plain way. made: features that replace encoding."""
    ends = end_tokens(model.tokenizer, template_named(TEMPLATE).assistant_close)
    prompts = tokenized(model)
    answers = []
    for sample, request in zip(asked, requests_of(asked), strict=True):
        (image,) = sample.images
        seen = made([image])[0] if made else plain_features(model, model.encoder.preprocess(image.load()))
        features = {image.sha256: seen}
        tokens = answer_one(model, prompts.pieces(request), features, LONGEST, ends, prompts.kept)
        answers.append((model.tokenizer.decode(tokens, skip_special_tokens=True).strip(), len(tokens)))
    return answers


def requests_of(asked: list[Sample]) -> list[Request]:
    """The requests that backends receive for these questions."""
    return [write_request(sample, TemplateFormat(TEMPLATE), LONGEST) for sample in asked]


def tokenized(model: VLM) -> TokenizedPrompts:
    """A counter of prompt tokens that agrees with the engine's."""
    return TokenizedPrompts(PromptTokens(model.tokenizer, TEMPLATE), model.image_tokens, grid_of(model))


def positions(model: VLM, asked: list[Sample]) -> int:
    """Number of prompt positions that the LLM processes in this project's way: each image's prefix only once."""
    lengths = tokenized(model).lengths(requests_of(asked))
    prefixes = {one.prefix: one.prefix_tokens for one in lengths}
    return sum(prefixes.values()) + sum(one.suffix_tokens for one in lengths)


def plain_features(model: VLM, pixels: Any) -> Tensor:
    """Features [edge, edge, width] as LLaVA's code computes them: all layers are run, and the second-last is used."""
    facts = Encoder.model_validate(model.config.encoder)
    states = model.encoder.model(torch.from_numpy(pixels)[None], output_hidden_states=True).hidden_states
    return states[facts.feature_layer][0, 1:].unflatten(0, (facts.grid, facts.grid))


def clock(threads: int) -> Any:
    """The clock for a number of threads: CPU seconds for one thread, wall seconds for several."""
    return time.process_time if threads == 1 else time.perf_counter


def compare(
    model: VLM, asked: list[Sample], threads: int, rounds: int, most: int = 32
) -> tuple[dict[str, Any], dict[str, float]]:
    """Time both ways alternately. Return counts (how many answers are the same, ...) and median seconds of each way.

    `plain` uses torch's own matrix products, `plain_quick` this project's. Both run only on the first `most` questions,
    and their seconds are scaled to all questions, because every question costs them the same.
    """
    ways = ("plain", "plain_quick", "cold", "warm")
    few = asked[:most]
    taken: dict[str, list[float]] = {way: [] for way in ways}
    given: dict[str, list[tuple[str, int]]] = {}
    now = clock(threads)
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="mllm-eval-bench-") as folder:
            for way in ways:
                use_kernels(model, "torch" if way == "plain" else "auto")
                start = now()
                if way.startswith("plain"):
                    given[way] = plain_way(model, few)
                else:
                    answers = shared_way(model, asked, Path(folder), way)
                    given[way] = [(answer.text, answer.tokens_out) for answer in answers]
                share = len(few) / len(asked) if way.startswith("plain") else 1.0
                taken[way].append((now() - start) / share)
    same = {way: sum(map(operator.eq, given[way], given["plain"])) for way in ways}
    about = {
        "questions": len(asked),
        "images": len({sample.images[0].sha256 for sample in asked}),
        "compared": len(few),
        "same_answers": min(same.values()),
        "distinct_answers": len(set(given["plain"])),
        "tokens_out": statistics.mean(tokens for _, tokens in given["plain"]),
    }
    return about, {way: statistics.median(seconds) for way, seconds in taken.items()}


def compare_shapes(
    models: Mapping[str, VLM], asked: list[Sample], threads: int, rounds: int, most: int = 32
) -> dict[str, Any]:
    """Time models alternately, without encoding: prompt positions, median seconds, and microseconds per position.

    `same_answers` counts the first `most` questions whose answer equals that of the model's plain loop.
    """
    taken: dict[str, list[float]] = {way: [] for way in models}
    given: dict[str, list[tuple[str, int]]] = {}
    now, features = clock(threads), Made(next(iter(models.values())))
    with tempfile.TemporaryDirectory(prefix="mllm-eval-bench-") as folder:
        for round_ in range(rounds):
            for way, model in models.items():
                journal = Journal(Path(folder) / f"{way}{round_}.jsonl")
                start = now()
                task = Task(asked, LONGEST, journal, TemplateFormat(TEMPLATE))
                answer_tasks(Engine(use_kernels(model), TEMPLATE, features), [task])
                taken[way].append(now() - start)
                done = journal.done()
                given[way] = [(done[sample.id].text, done[sample.id].tokens_out) for sample in asked]
    summary: dict[str, Any] = {"questions": len(asked), "images": len({sample.images[0].sha256 for sample in asked})}
    few = asked[:most]
    same = {way: sum(map(operator.eq, given[way], plain_way(model, few, features))) for way, model in models.items()}
    summary |= {"compared": len(few), "same_answers": min(same.values())}
    summary["distinct_answers"] = min(len(set(answers)) for answers in given.values())
    for way, model in models.items():
        seconds, count = statistics.median(taken[way]), positions(model, asked)
        summary |= {f"{way}_positions": count, f"{way}_seconds": seconds}
        summary[f"{way}_microseconds_a_position"] = 1e6 * seconds / count
    return summary


class Made:
    """Random features instead of an encoder's: [grid, grid, width] per image, the same at every call."""

    def __init__(self, model: VLM) -> None:
        self.facts = Encoder.model_validate(model.config.encoder)

    def __call__(self, images: Sequence[ImageRef]) -> list[Tensor]:
        shape = self.facts.grid, self.facts.grid, self.facts.width
        chances = (torch.Generator().manual_seed(int(image.sha256[:15], 16)) for image in images)
        return [torch.randn(shape, generator=chance) for chance in chances]
