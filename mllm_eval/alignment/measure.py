"""Measures the alignment of one encoder and one language model: features, scores of all pairs of layers, and chance."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from mllm_eval.alignment.chance import interval_over_pictures, null_of_maximum
from mllm_eval.alignment.conditions import hold_enough, hold_finite, hold_permutations, hold_scores
from mllm_eval.alignment.metrics import METRICS, OVER_NEIGHBOURS, by_sample, clipped, nearest
from mllm_eval.alignment.pairs import PairSet, load_pairs
from mllm_eval.alignment.protocol import Alignment, load_alignment
from mllm_eval.alignment.representations import Language, Representations, load_language, of_captions, of_pictures
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
    Only metrics on neighbours have a null distribution and an interval, not CKA, unbiased CKA and CKNNA.

    The features of all layers are kept under results/alignment/features, so that another metric or model reuses them.
    Raises UserError for unknown names, missing data, too few pairs, permutations of a metric that has no null
    distribution, features or scores that are not finite, or if more than 1 % of the pairs can't be read.
    """
    reporter = reporter or Silent()
    encoder = load_encoder(encoder) if isinstance(encoder, str) else encoder
    protocol = load_alignment(protocol) if isinstance(protocol, str) else protocol
    hold_permutations(protocol.metric, permutations)
    repeatable(0)
    pairs = load_pairs(protocol, data, reporter)
    _hold_readable(pairs.failed, len(pairs.pairs))
    hold_enough(protocol, len(pairs.pairs))
    language = load_language(llm)
    seen, failed = _pictures(encoder, pairs, reporter)
    said = _captions(language, pairs, reporter)
    kept = [number for number in range(len(pairs.pairs)) if number not in failed]
    reasons = [*pairs.failed, *failed.values()]
    _hold_readable(reasons, len(kept))
    hold_enough(protocol, len(kept))
    x, y = clipped(seen, protocol.clip), clipped(said[:, kept], protocol.clip)
    best, interval, null = None, None, None
    if protocol.metric in OVER_NEIGHBOURS:
        of_x, of_y = nearest(x, protocol.neighbours), nearest(y, protocol.neighbours)
        values = by_sample(protocol.metric, of_x, of_y)
        grid = values.mean(-1)
    else:
        grid = METRICS[protocol.metric](x, y, protocol.neighbours)
    hold_scores(grid, protocol.metric, _blocks(encoder.name, len(x)), _layers(language.name, len(y)))
    layer, llm_layer = divmod(int(grid.argmax()), grid.shape[1])
    score = float(grid.max())
    if protocol.metric in OVER_NEIGHBOURS:
        best = values[layer, llm_layer].double().numpy()
        interval = interval_over_pictures(best, protocol.draws)
        if times := protocol.permutations if permutations is None else permutations:
            with reporter.step(f"{encoder.name} and {language.name}: chance") as progress:
                null = null_of_maximum(protocol.metric, of_x, of_y, score, times, progress=progress)
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


def _hold_readable(reasons: list[str], readable: int) -> None:
    if len(reasons) > FAILURES * (readable + len(reasons)):
        raise UserError(f"{len(reasons)} of {readable + len(reasons)} pairs cannot be read; the first: {reasons[0]}")


def _blocks(encoder: str, count: int) -> list[str]:
    return [f"block {number} of {encoder}" for number in range(1, count + 1)]


def _layers(llm: str, count: int) -> list[str]:
    return [f"layer {number} of {llm}" for number in range(count)]


def _pictures(encoder: Encoder, pairs: PairSet, reporter: Reporter) -> Representations:
    def make() -> Representations:
        with reporter.step(f"{encoder.name}: {len(pairs.pairs):,} pictures") as progress:
            return of_pictures(encoder, pairs.pairs, progress)

    return _known_or_made(["pictures", *_asked_of(encoder)], pairs, make, lambda count: _blocks(encoder.name, count))


def _captions(language: Language, pairs: PairSet, reporter: Reporter) -> Tensor:
    def make() -> Representations:
        with reporter.step(f"{language.name}: {len(pairs.pairs):,} captions") as progress:
            return Representations(of_captions(language, [pair.text for pair in pairs.pairs], progress), {})

    key = ["captions", language.what, str(language.model.dtype)]
    return _known_or_made(key, pairs, make, lambda count: _layers(language.name, count)).features


def _known_or_made(
    key: list[Any], pairs: PairSet, make: Callable[[], Representations], named: Callable[[int], list[str]]
) -> Representations:
    """The kept features, or those of `make`, which are kept. `named`: the names of so many layers, for messages."""
    path = _kept_at([*key, pairs.identity])
    known = _read(path, pairs)
    made = make() if known is None else known
    where = [pair.where for number, pair in enumerate(pairs.pairs) if number not in made.failed]
    hold_finite(made.features, named(len(made.features)), where)
    if known is None:
        _keep(path, made, pairs)
    return made


def _kept_at(key: Any) -> Path:
    return alignments_home() / "features" / f"{short_hash(key, 16)}.safetensors"


def _read(path: Path, pairs: PairSet) -> Representations | None:
    if not (path.is_file() and as_written(path)):
        return None
    with safe_open(path, "pt") as file:
        reasons = json.loads((file.metadata() or {}).get("failed", "{}"))
        failed = {int(number): pairs.pairs[int(number)].where + reason for number, reason in reasons.items()}
        return Representations(file.get_tensor("features"), failed)


def _keep(path: Path, made: Representations, pairs: PairSet) -> None:
    # Without their place, as the same files may lie elsewhere next time.
    failed = {number: reason.removeprefix(pairs.pairs[number].where) for number, reason in made.failed.items()}
    noted = {"failed": json.dumps(failed)} if failed else None
    write_summed(path, save({"features": made.features.contiguous()}, noted))
