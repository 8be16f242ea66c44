"""The time that filtering took, and a projection to two billion images: hours, cost, disk. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mllm_eval.filtering.corpusrun import Filtered
from mllm_eval.operations.count import encoding, passing, projecting
from mllm_eval.operations.shapes import encoder_shape, known_llama_shape, projector_shape
from mllm_eval.plan.gpus import parse_gpus
from mllm_eval.run import Run

# The number of images that the paper filters.
PICTURES = 2_000_000_000
# Bytes of a column in a row group before its first value: headers of its pages (measured).
HEADER = 80
# Files of decisions from which their size is estimated.
SAMPLED = 1000


@dataclass(frozen=True)
class Projection:
    """The cost of filtering `pictures` images.

    a_second, a_cpu_second  images per second and per CPU second on this machine, decoding and files included
    hours                   hours on this machine at that rate
    flops                   floating-point operations per image; None if unknown
    gpu_hours, cost         on `gpus` at `mfu`, decoding not included, at `price` per GPU hour; None without `flops`
    decisions, kept         bytes of the decisions, without what each file takes whatever its number of images, and of
                            the kept images if they are written
    """

    pictures: int
    a_second: float
    a_cpu_second: float
    hours: float
    decisions: int
    kept: int
    gpus: str
    mfu: float
    price: float
    flops: int | None = None
    gpu_hours: float | None = None
    cost: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The projection as plain data."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The projection in sentences; sizes in GiB."""
        said = [
            f"here: {self.a_second:,.1f} pictures a second, {self.a_cpu_second:,.1f} a processor second",
            f"{self.pictures:,} pictures at this pace: {self.hours:,.0f} h of this machine",
        ]
        if self.gpu_hours is not None and self.flops is not None and self.cost is not None:
            number = int(self.gpus.partition("x")[0])
            said.append(f"on {self.gpus}: {self.gpu_hours / number:,.1f} h, {self.gpu_hours:,.1f} GPU hours at "
                        f"{self.mfu:.0%} MFU ({self.flops:.3g} FLOPs a picture), cost {self.cost:,.0f}; decoding is "
                        "not in it")  # fmt: skip
        said.append(f"disk, GiB: decisions {self.decisions / 2**30:,.1f}, kept pictures {self.kept / 2**30:,.1f}; "
                    "a few kB for each shard are not in it")  # fmt: skip
        return said


def project(
    made: Filtered,
    model: Any,
    pictures: int = PICTURES,
    gpus: str = "8xH100",
    mfu: float = 0.4,
    price: float = 2.5,
) -> Projection | None:
    """The projection from a filtered corpus; None if nothing was judged. Raises UserError for unknown GPUs."""
    number, name, gpu = parse_gpus(gpus)
    spent, tally = made.spent, made.tally
    seen = tally.judged + tally.failed
    if not seen or not spent.pictures or not spent.seconds:
        return None
    written = _bytes_of_rows(made.out / "decisions")
    pace = spent.pictures / spent.seconds
    flops = operations(model, made)
    gpu_hours = None if flops is None else flops * pictures / (gpu.tflops * 1e12 * mfu) / 3600
    return Projection(
        pictures=pictures,
        a_second=pace,
        a_cpu_second=spent.pictures / max(spent.cpu_seconds, 1e-9),
        hours=pictures / pace / 3600,
        decisions=round(written / seen * pictures),
        kept=round(tally.kept_bytes / seen * pictures),
        gpus=f"{number}x{name}",
        mfu=mfu,
        price=price,
        flops=flops,
        gpu_hours=gpu_hours,
        cost=None if gpu_hours is None else gpu_hours * price,
    )


def _bytes_of_rows(folder: Path) -> float:
    """The bytes of the values in parquet files, estimated from the first `SAMPLED` of them, without headers.

    With them, a shard of a few images would make each image ten times as large.
    """
    import pyarrow.parquet as pq

    files = values = 0
    for path in folder.rglob("*.parquet"):
        files += 1
        if files <= SAMPLED:
            with open(path, "rb") as file:
                footer = pq.read_metadata(file)
            groups = (footer.row_group(place) for place in range(footer.num_row_groups))
            chunks = (group.column(place) for group in groups for place in range(group.num_columns))
            values += sum(max(0, chunk.total_compressed_size - HEADER) for chunk in chunks)
    return values * files / max(1, min(files, SAMPLED))


def operations(model: Any, made: Filtered) -> int | None:
    """The operations per image: as the judge counted them, or of a run from its shapes.

    Of a run, the prompt before the image is computed only once for all.
    """
    counted = made.about.get("flops")
    if isinstance(counted, int):
        return counted
    tokens = made.about.get("tokens")
    if not isinstance(model, Run) or not isinstance(tokens, int):
        return None
    llm, positions = known_llama_shape(model.llm), model.recipe.positions
    own = tokens - int(made.about.get("shared", 0))
    prompt = passing(llm, 1, own, 1, tokens).forward
    joint = projector_shape(model.encoder, model.recipe, model.llm)
    return encoding(encoder_shape(model.encoder), 1) + projecting(joint, positions) + prompt
