"""An LLM in one file of GGUF: bytes of its header, what its values say, and what it says of its tensors."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from made_gguf import CHAT, llm_of, make_model, write_gguf

from fuzzing.mutation import HOSTILE, NUMBERS, Strategy, changed_bytes
from fuzzing.running import Changed, Subject
from mllm_eval.hub.gguf_header import KINDS, read_gguf
from mllm_eval.model import load_llm_model, load_tokenizer
from mllm_eval.operations.shapes import llama_shape
from mllm_eval.pipeline.provision import check

TEXTS = tuple(one for one in HOSTILE if isinstance(one, str))
FLOATS = (0.0, -0.0, -1.0, 0.5, 1e-300, 1e38, float("inf"), float("nan"))
# Type of a value -> how struct writes one.
FORMS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
STEP = 32


class Value(NamedTuple):
    """A value of the header: its key, the number of its type, itself; of an array the type of its members first."""

    key: str
    kind: int
    value: Any


class Tensor(NamedTuple):
    """What the header says of a tensor; sizes the fastest first, as the format has them."""

    name: str
    sizes: tuple[int, ...]
    kind: int
    start: int


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(data)) + data


def number(kind: int, value: Any) -> bytes:
    form = FORMS[kind]
    if form in "fd?":
        return struct.pack(f"<{form}", value)
    size = struct.calcsize(form)
    return (int(value) % 256**size).to_bytes(size, "little")


def plain(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return text(value)
    if kind == ARRAY:
        inner, members = value
        return struct.pack("<IQ", inner, len(members)) + b"".join(plain(inner, one) for one in members)
    return number(kind, value)


def header(values: Sequence[Value], tensors: Sequence[Tensor]) -> bytes:
    """The bytes before the tensors."""
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(values))]
    parts += [text(one.key) + struct.pack("<I", one.kind) + plain(one.kind, one.value) for one in values]
    for one in tensors:
        parts.append(text(one.name) + struct.pack(f"<I{len(one.sizes)}Q", len(one.sizes), *one.sizes))
        parts.append(struct.pack("<IQ", one.kind, one.start))
    data = b"".join(parts)
    return data + bytes(-len(data) % STEP)


def kind_of(value: Any) -> tuple[int, Any]:
    """The type that a value read from a header is written with here."""
    if isinstance(value, bool):
        return 7, value
    if isinstance(value, str):
        return STRING, value
    if isinstance(value, list):
        return ARRAY, (STRING, value)
    if isinstance(value, np.ndarray):
        return ARRAY, (5, value.tolist())
    return (4, value) if isinstance(value, int) else (6, value)


_value = st.one_of(
    st.tuples(st.sampled_from((4, 5, 10, 11)), st.sampled_from((*NUMBERS, -1))),
    st.tuples(st.sampled_from((6, 12)), st.sampled_from(FLOATS)),
    st.tuples(st.just(7), st.booleans()),
    st.tuples(st.just(STRING), st.sampled_from(TEXTS)),
    st.tuples(st.just(ARRAY), st.tuples(st.just(STRING), st.lists(st.sampled_from(TEXTS), max_size=4))),
    st.tuples(st.just(ARRAY), st.tuples(st.just(5), st.lists(st.sampled_from(NUMBERS), max_size=4))),
    st.tuples(st.just(ARRAY), st.just((ARRAY, [(4, [1]), (STRING, ["a"])]))),
)  # fmt: skip
_place = st.integers(0, 2**16)


class File(Subject):
    """A tiny LLaMA: what `mllm-eval weights` looks at, what is dequantised, what its tokenizer makes of a text."""

    quantised = "Q8_0"

    def __init__(self, home: Path) -> None:
        torch.set_num_threads(1)
        self.path = home / "x.gguf"
        model = make_model()
        write_gguf(self.path, model, self.quantised, chat=CHAT)
        self.llm = llm_of(self.path, model, self.quantised)
        sound, said = self.path.read_bytes(), read_gguf(self.path)
        begin = min(one.start for one in said.tensors.values())
        self.body = sound[begin:]
        self.values = [Value(key, *kind_of(value)) for key, value in said.metadata.items()]
        self.tensors = [
            Tensor(name, one.shape[::-1], one.kind, one.start - begin) for name, one in said.tensors.items()
        ]
        self.path.write_bytes(header(self.values, self.tensors) + self.body)
        self.use()
        self.sound = {name: tensor.clone() for name, tensor in load_llm_model(self.llm).state_dict().items()}
        head = changed_bytes(sound[:begin]).map(lambda made: made + self.body)
        self.inputs: Strategy[Any] = st.one_of(
            head, self.changed_value(), self.changed_value(), self.changed_words(), self.changed_tensor(),
            st.integers(0, len(sound)).map(lambda end: sound[:end]),
        )  # fmt: skip

    def written(self, values: Sequence[Value] | None = None, tensors: Sequence[Tensor] | None = None) -> bytes:
        held = self.values if values is None else values
        return header(held, self.tensors if tensors is None else tensors) + self.body

    def changed_value(self) -> Strategy[bytes]:
        def put(change: tuple[int, str, tuple[int, Any]]) -> bytes:
            place, what, (kind, value) = change
            held = list(self.values)
            at = place % len(held)
            one = held[at]
            made = {"set": [Value(one.key, kind, value)], "gone": [], "twice": [one, one],
                    "named": [one, Value(str(TEXTS[place % len(TEXTS)]), kind, value)],
                    "more": [one, Value(f"llama.{one.key}", kind, value)]}[what]  # fmt: skip
            held[at : at + 1] = made
            return self.written(values=held)

        changes = st.sampled_from(("set", "set", "set", "gone", "twice", "named", "more"))
        return st.tuples(_place, changes, _value).map(put)

    def changed_words(self) -> Strategy[bytes]:
        """A member of the tokenizer's lists: a word, a kind, a merge; or a number that names a word."""
        lists = [at for at, one in enumerate(self.values) if one.kind == ARRAY]
        names = [at for at, one in enumerate(self.values) if one.key.endswith("_token_id")]

        def member(change: tuple[int, int, int]) -> bytes:
            held = list(self.values)
            place, at, wanted = change
            which = lists[place % len(lists)]
            inner, members = held[which].value
            members = list(members)
            fresh: Any = TEXTS[wanted % len(TEXTS)] if inner == STRING else NUMBERS[wanted % len(NUMBERS)]
            members[at % len(members) :][:1] = [fresh]
            members[at % len(members)] = fresh
            if wanted % 5 == 0:
                del members[at % len(members) :]
            held[which] = held[which]._replace(value=(inner, members))
            return self.written(values=held)

        def named(change: tuple[int, int]) -> bytes:
            held = list(self.values)
            which = names[change[0] % len(names)]
            held[which] = held[which]._replace(value=NUMBERS[change[1] % len(NUMBERS)])
            return self.written(values=held)

        return st.tuples(_place, _place, _place).map(member) | st.tuples(_place, _place).map(named)

    def changed_tensor(self) -> Strategy[bytes]:
        def put(change: tuple[int, str, int, int]) -> bytes:
            place, what, wanted, axis = change
            held = list(self.tensors)
            at = place % len(held)
            one = held[at]
            sizes = list(one.sizes)
            sizes[axis % len(sizes)] = NUMBERS[wanted % len(NUMBERS)]
            kinds = [*KINDS, 4, 99, 2**31]
            other = held[wanted % len(held)]
            made = {
                "gone": [], "twice": [one, one], "size": [one._replace(sizes=tuple(sizes))],
                "rank": [one._replace(sizes=(*one.sizes, 1)[: wanted % 4])],
                "turned": [one._replace(sizes=one.sizes[::-1])],
                "kind": [one._replace(kind=kinds[wanted % len(kinds)])],
                "start": [one._replace(start=NUMBERS[wanted % len(NUMBERS)])],
                "name": [one._replace(name=TEXTS[wanted % len(TEXTS)])],
                "other": [one._replace(name=other.name)], "more": [one, one._replace(name=f"{one.name}.{wanted}")],
            }[what]  # fmt: skip
            held[at : at + 1] = made
            return self.written(tensors=held)

        what = ("gone", "twice", "size", "size", "rank", "turned", "kind", "kind", "start", "name", "other", "more")
        return st.tuples(_place, st.sampled_from(what), _place, _place).map(put)

    def read(self, given: bytes) -> str:
        self.path.unlink(missing_ok=True)
        self.path.write_bytes(given)
        self.use()
        return "read"

    def use(self) -> None:
        read_gguf(self.path)
        check(self.llm, self.path)
        llama_shape(self.llm)
        model = load_llm_model(self.llm)
        tokenizer = load_tokenizer(self.llm, "llama_3")
        ids = tokenizer("What is in the picture?\n<image> Ä 1", add_special_tokens=False)["input_ids"]
        tokenizer.decode(ids)
        if ids and max(ids) > self.llm.vocab:
            raise Changed(f"id {max(ids)} of {self.llm.vocab}")
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        if hasattr(self, "sound") and shapes != {name: tensor.shape for name, tensor in self.sound.items()}:
            raise Changed("a model of other shapes")


SUBJECTS: dict[str, Callable[[Path], Subject]] = {"gguf": File}
