"""`mllm-eval prompt`: shows the prompts of a benchmark's rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mllm_eval.catalog import load_benchmark
from mllm_eval.catalog.benchmark import Benchmark
from mllm_eval.catalog.variant import DEFAULT, VariantKey
from mllm_eval.data.columntypes import named_columns
from mllm_eval.data.readers import Reading
from mllm_eval.data.settings import settings_of
from mllm_eval.data.snapshots import load_samples, reader_of
from mllm_eval.data.tables import DataRow
from mllm_eval.errors import UserError, near
from mllm_eval.prompts.strings import IMAGE, PromptPart, prompt_parts, render, template_named
from mllm_eval.prompts.tokens import PromptTokens
from mllm_eval.storage import iter_jsonl


def begin_words(template: str) -> str:
    """A sentence about the begin token that the tokenizer adds to a template's prompts; "" if it adds none."""
    mark = template_named(template).begin_of_tokenizer
    return f"{mark} stands in front of each prompt: the tokenizer's own begin token, which it adds once" if mark else ""


def show_prompts(
    benchmark: str,
    records: Path | None = None,
    template: str = "llama_3",
    pin: str = "mini",
    variant: VariantKey = DEFAULT,
    tokenizer: Any = None,
) -> Iterator[str]:
    """Yield JSON lines: {"prompt"} for the records of a file (lines {"record"}), or {"id", "prompt"} for the data.

    A record without an image field is shown with its image; one whose image is null has none. With a tokenizer, each
    line also has `ids` and `tokens`: the model's input, with the begin token, and one mark for each image.
    Raises UserError for an unknown name, and for a record that can't be read.
    """
    template_named(template)
    words = None if tokenizer is None else PromptTokens(tokenizer, template)

    def line(named: Mapping[str, str], user: str, n_images: int) -> str:
        said = {**named, "prompt": render(template, user, n_images)}
        tokens = {} if words is None else _tokens(words, prompt_parts(template, user, n_images))
        return json.dumps({**said, **tokens}, ensure_ascii=False)

    chosen = load_benchmark(benchmark)
    if records is None:
        for sample in load_samples(chosen, pin, variant):
            yield line({"id": sample.id}, sample.prompt, len(sample.images))
        return
    for number, row in enumerate(iter_jsonl(records), 1):
        where = f"{records}:{number}"
        record = row.get("record")
        if not isinstance(record, dict):
            raise UserError(f"{where}: field 'record' is missing or no object.{near('record', row)}")
        reading = read_record(chosen, record, where, variant)
        yield line({}, reading.prompt, len(reading.images))


def _tokens(words: PromptTokens, parts: Sequence[PromptPart]) -> dict[str, Any]:
    """Token ids of a prompt, and the tokenizer's text for each."""
    image = words.tokenizer.convert_tokens_to_ids(IMAGE)
    first, *others = [ids for ids, _ in words.encode(words.chunks(parts))]
    ids = [*first, *(token for more in others for token in (image, *more))]
    return {"ids": ids, "tokens": words.tokenizer.convert_ids_to_tokens(ids)}


def read_record(benchmark: Benchmark, record: Mapping[str, Any], where: str, variant: VariantKey = DEFAULT) -> Reading:
    """Apply the benchmark's reader to a record from a file. Raises UserError that starts with `where`."""
    from mllm_eval.data.snapshots import read_row

    names = named_columns(record, benchmark.aliases, where)
    named = {name: record[own] for name, own in names.items()}
    read = reader_of(benchmark)
    return read_row(read, DataRow(where, named, {}), settings_of(benchmark, read, benchmark.variant(variant).settings))
