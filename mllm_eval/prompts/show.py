"""`mllm-eval prompt`: the prompts that a benchmark's rows become."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mllm_eval.catalog import load_benchmark
from mllm_eval.catalog.benchmark import Benchmark
from mllm_eval.data.columns import named_columns
from mllm_eval.data.readers import Reading
from mllm_eval.data.settings import settings_of
from mllm_eval.data.snapshots import load_samples, reader_of
from mllm_eval.data.tables import Row
from mllm_eval.errors import UserError, near
from mllm_eval.prompts.render import render, template_named
from mllm_eval.storage import iter_jsonl


def begin_words(template: str) -> str:
    """What the tokenizer puts in front of every prompt of a template, in words; "" where the template writes it all."""
    mark = template_named(template).begin_of_tokenizer
    return f"{mark} stands in front of each prompt: the tokenizer's own begin token, which it adds once" if mark else ""


def show_prompts(
    benchmark: str,
    records: Path | None = None,
    template: str = "llama_3",
    pin: str = "mini",
    variant: str = "default",
) -> Iterator[str]:
    """JSON lines {"prompt"} of the records of a file (lines {"record"}), or {"id", "prompt"} of the data.

    A record that doesn't speak of its image has one; one whose image is null has none.
    """
    template_named(template)
    chosen = load_benchmark(benchmark)
    if records is None:
        for sample in load_samples(chosen, pin, variant):
            text = render(template, sample.prompt, len(sample.images))
            yield json.dumps({"id": sample.id, "prompt": text}, ensure_ascii=False)
        return
    for number, line in enumerate(iter_jsonl(records), 1):
        where = f"{records}:{number}"
        record = line.get("record")
        if not isinstance(record, dict):
            raise UserError(f"{where}: field 'record' is missing or no object.{near('record', line)}")
        reading = read_record(chosen, record, where, variant)
        prompt = render(template, reading.prompt, len(reading.images))
        yield json.dumps({"prompt": prompt}, ensure_ascii=False)


def read_record(benchmark: Benchmark, record: Mapping[str, Any], where: str, variant: str = "default") -> Reading:
    """What the benchmark's reader makes of a record that came from a file."""
    from mllm_eval.data.snapshots import read_row

    names = named_columns(record, benchmark.aliases, where)
    named = {name: record[own] for name, own in names.items()}
    read = reader_of(benchmark)
    return read_row(read, Row(where, named, {}), settings_of(benchmark, read, benchmark.variant(variant).settings))
