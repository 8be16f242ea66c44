"""What weights come with: headers, configs, tokenizers; of models that are tiny and random."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from hypothesis import strategies as st
from tiny_models import make_conversations, make_encoder, make_llm, make_recipe

from fuzzing.mutation import Strategy, changed_bytes, changed_json
from fuzzing.running import Changed, Subject
from mllm_eval.adapters import load_encoder_model
from mllm_eval.adapters.original import read_tensors
from mllm_eval.generate.positions import positions_in
from mllm_eval.greedy import kept, overruled
from mllm_eval.hub.safetensors_header import read_header
from mllm_eval.model import assemble, load_checkpoint, load_llm_model, load_tokenizer, save_checkpoint, sums
from mllm_eval.pipeline.provision import check

torch.set_num_threads(1)


def changed_file(path: Path) -> Strategy[tuple[Path, bytes]]:
    """A JSON file changed, or the header of a safetensors file."""
    data = path.read_bytes()
    if path.suffix == ".json":
        made = changed_json(json.loads(data))
    else:
        size = int.from_bytes(data[:8], "little")

        def again(head: bytes) -> bytes:
            return len(head).to_bytes(8, "little") + head + data[8 + size :]

        made = changed_json(json.loads(data[8 : 8 + size])).map(again)
        made |= changed_bytes(data[: 8 + size]).map(lambda head: head + data[8 + size :])
    return made.map(lambda new: (path, new))


class Folder(Subject):
    """A folder of which one file is changed, and put back behind the input."""

    names: tuple[str, ...]
    folder: Path

    def strategies(self) -> None:
        paths = [self.folder / name for name in self.names]
        self.inputs = st.one_of([changed_file(path) for path in paths if path.is_file()])

    def read(self, given: tuple[Path, bytes]) -> str:
        path, data = given
        sound = path.read_bytes()
        path.write_bytes(data)
        try:
            self.use()
        finally:
            path.write_bytes(sound)
        return "read"

    def use(self) -> None:
        raise NotImplementedError


class Header(Folder):
    """Weights of an encoder: what `mllm-eval weights` looks at, and what is loaded."""

    names = ("model.safetensors",)

    def __init__(self, home: Path) -> None:
        self.folder = home / "weights/tiny"
        self.encoder = make_encoder(self.folder)
        self.strategies()

    def use(self) -> None:
        read_header(self.folder / "model.safetensors")
        check(self.encoder, self.folder)
        read_tensors(self.folder / "model.safetensors")
        load_encoder_model(self.encoder)


class EncoderConfig(Header):
    """The config beside them."""

    names = ("config.json",)

    def use(self) -> None:
        positions_in(self.folder)
        overruled(self.folder)
        check(self.encoder, self.folder)
        load_encoder_model(self.encoder)


class LlmConfig(Folder):
    """An LLM's configs."""

    names = ("config.json", "generation_config.json")

    def __init__(self, home: Path) -> None:
        self.folder = home / "weights/llm"
        self.llm = make_llm(self.folder)
        self.strategies()

    def use(self) -> None:
        positions_in(self.folder)
        overruled(self.folder)
        kept(self.folder)
        check(self.llm, self.folder)
        load_llm_model(self.llm)


class TokenizerFiles(LlmConfig):
    """Its tokenizer: what can be loaded gives numbers of words that the embedding has."""

    names = ("tokenizer.json", "tokenizer_config.json")

    def use(self) -> None:
        check(self.llm, self.folder)
        tokenizer = load_tokenizer(self.llm, "llama_3_meta")
        ids = tokenizer("What is in the picture?\n<image> Ä 1", add_special_tokens=False)["input_ids"]
        if ids and max(ids) > self.llm.vocab:
            raise Changed(f"id {max(ids)} of {self.llm.vocab}")


class Checkpoint(Folder):
    """A checkpoint of this project."""

    names = ("config.json", "processor_config.json", "tokenizer_config.json", "generation_config.json",
             "model.safetensors")  # fmt: skip

    def __init__(self, home: Path) -> None:
        encoder, llm = make_encoder(home / "weights/e"), make_llm(home / "weights/l")
        recipe = make_recipe(*make_conversations(home / "mine"))
        model = assemble(encoder, recipe, load_llm_model(llm), load_tokenizer(llm, recipe.template))
        self.folder = home / "checkpoint"
        save_checkpoint(model, self.folder, load_encoder_model(encoder))
        self.strategies()

    def use(self) -> None:
        load_checkpoint(self.folder)


class Resummed(Checkpoint):
    """A checkpoint of someone who wrote its checksums anew: what reads shapes, configs and tokenizers is reached, and
    what is loaded answers."""

    names = (*Checkpoint.names, "tokenizer.json")

    def use(self) -> None:
        sums.write(self.folder)
        try:
            model = load_checkpoint(self.folder)
            load_checkpoint(self.folder, encoder=False)
        finally:
            (self.folder / sums.FILE).unlink()
        size = model.get_input_embeddings().num_embeddings
        ids = model.tokenizer("What is it? Ä 1", add_special_tokens=False)["input_ids"]
        if ids and max(ids) >= size:
            raise Changed(f"id {max(ids)} of {size}")
        with torch.no_grad():
            model(input_ids=torch.tensor([[0, 1, 2, 3]]))


SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    "safetensors header": Header, "encoder config": EncoderConfig, "llm config": LlmConfig,
    "tokenizer": TokenizerFiles, "checkpoint": Checkpoint, "checkpoint resummed": Resummed,
}  # fmt: skip
