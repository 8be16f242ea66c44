"""Measures the alignment of one encoder and one language model: features, scores of all pairs of layers, and chance."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from mllm_eval.alignment.chance import interval_over_pictures, null_of_maximum
from mllm_eval.alignment.metrics import METRICS, clipped, mutual_knn_by_sample
from mllm_eval.alignment.pairs import PairSet, load_pairs
from mllm_eval.alignment.protocol import Alignment, load_alignment
from mllm_eval.alignment.representations import Language, load_language, of_captions, of_pictures
from mllm_eval.catalog import Encoder, load_encoder
from mllm_eval.config import short_hash
from mllm_eval.disk import as_written
from mllm_eval.environment import repeatable, settings
from mllm_eval.errors import UserError
from mllm_eval.pipeline.reporter import Reporter, Silent
from mllm_eval.results.aligned import RESULT, Aligned, alignments_home
from mllm_eval.storage import write_json, write_summed

# The largest share of failed pairs: with more, the score would not be comparable to others of the same data.
FAILURES = 0.01


@settings()
def align(
    encoder: str | Encoder,
    llm: str,
    protocol: str | Alignment = "platonic",
    data: str = "mini",
    permutations: int | None = None,
    reporter: Reporter | None = None,
) -> Aligned:
    """Measures the alignment of an encoder with a language model, and writes it to results/alignment.

    encoder: a name, or the encoder itself. llm: a name of configs/llms, a run's hash (its LLM after stage 2), or a
    folder in the hub's format. permutations: number for the null distribution (default: the protocol's); 0 skips it.

    The features of all layers are kept under results/alignment/features, so that another metric or model reuses them.
    Raises UserError for unknown names, missing data, or if more than 1 % of the pairs can't be read.
    """
    reporter = reporter or Silent()
    encoder = load_encoder(encoder) if isinstance(encoder, str) else encoder
    protocol = load_alignment(protocol) if isinstance(protocol, str) else protocol
    repeatable(0)
    pairs = load_pairs(protocol, data, reporter)
    language = load_language(llm)
    seen, failed = _pictures(encoder, pairs, reporter)
    said = _captions(language, pairs, reporter)
    kept = [number for number in range(len(pairs.pairs)) if number not in failed]
    reasons = [*pairs.failed, *failed.values()]
    if len(reasons) > FAILURES * (len(kept) + len(reasons)):
        raise UserError(f"{len(reasons)} of {len(kept) + len(reasons)} pairs cannot be read; the first: {reasons[0]}")
    x, y = clipped(seen, protocol.clip), clipped(said[:, kept], protocol.clip)
    count = protocol.neighbours
    by_sample = mutual_knn_by_sample(x, y, count) if protocol.metric == "mutual_knn" else None
    grid = METRICS[protocol.metric](x, y, count) if by_sample is None else by_sample.mean(-1)
    layer, llm_layer = divmod(int(grid.argmax()), grid.shape[1])
    score = float(grid.max())
    best, interval, null = None, None, None
    if by_sample is not None:
        best = by_sample[layer, llm_layer].double().numpy()
        interval = interval_over_pictures(best, protocol.draws)
        if times := protocol.permutations if permutations is None else permutations:
            with reporter.step(f"{encoder.name} and {language.name}: chance") as progress:
                null = null_of_maximum(x, y, count, score, times, progress=progress)
    result = Aligned(
        encoder=encoder.name,
        llm=language.name,
        protocol=f"{protocol.name}.v{protocol.version}",
        metric=protocol.metric,
        score=score,
        layer=layer + 1,
        llm_layer=llm_layer,
        scores=[[round(value, 6) for value in row] for row in grid.tolist()],
        interval=interval,
        null=null,
        calibrated=None if null is None else null.calibrated(score),
        pairs=len(kept),
        failed=reasons,
        encoder_params=encoder.params,
        llm_params=language.params,
        summary=encoder.summary,
        llm_base=language.base,
        data=data,
        pictures=short_hash([pairs.identity, *sorted(failed)]),
        weights=encoder.weights.digest(),
        by_picture=None if best is None else [round(value, 6) for value in best.tolist()],
    )
    # The folder is named by the encoder with its weights, the language model, the protocol and the data.
    asked = protocol.model_dump(mode="json", exclude={"data"})
    key = short_hash([_asked_of(encoder), language.what, asked, pairs.identity])
    write_json(alignments_home() / f"{encoder.name}-{key}" / RESULT, asdict(result))
    return result


def _asked_of(encoder: Encoder) -> list[Any]:
    """What an encoder's features depend on here: its weights, and the fields of its yaml that this measurement uses."""
    facts = encoder.model_dump(mode="json", exclude={"name", "facts", "norm", "feature_layer", "weights"})
    return [encoder.weights.digest(), facts]


def _pictures(encoder: Encoder, pairs: PairSet, reporter: Reporter) -> tuple[Tensor, dict[int, str]]:
    path = _kept_at(["pictures", *_asked_of(encoder), pairs.identity])
    if (kept := _read(path)) is not None:
        return kept, {}
    with reporter.step(f"{encoder.name}: {len(pairs.pairs):,} pictures") as progress:
        made = of_pictures(encoder, pairs.pairs, progress)
    if not made.failed:
        _keep(path, made.features)
    return made.features, made.failed


def _captions(language: Language, pairs: PairSet, reporter: Reporter) -> Tensor:
    path = _kept_at(["captions", language.what, str(language.model.dtype), pairs.identity])
    if (kept := _read(path)) is not None:
        return kept
    with reporter.step(f"{language.name}: {len(pairs.pairs):,} captions") as progress:
        made = of_captions(language, [pair.text for pair in pairs.pairs], progress)
    _keep(path, made)
    return made


def _kept_at(key: Any) -> Path:
    return alignments_home() / "features" / f"{short_hash(key, 16)}.safetensors"


def _read(path: Path) -> Tensor | None:
    return load_file(path)["features"] if path.is_file() and as_written(path) else None


def _keep(path: Path, features: Tensor) -> None:
    write_summed(path, save({"features": features.contiguous()}))
