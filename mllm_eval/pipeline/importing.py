"""Import a file of answers made elsewhere: journal and score them like a run's own, as a row of the table."""

from __future__ import annotations

from pathlib import Path

from mllm_eval.answers import Answer
from mllm_eval.catalog import load_benchmark, names
from mllm_eval.catalog.benchmark import answers_variant
from mllm_eval.environment import settings
from mllm_eval.errors import UserError
from mllm_eval.imported import Imported
from mllm_eval.pipeline.flow import working
from mllm_eval.pipeline.inference import titled
from mllm_eval.pipeline.ledger import AskedVariant
from mllm_eval.pipeline.reporter import Reporter
from mllm_eval.pipeline.runscores import DataStates, score_answers
from mllm_eval.pipeline.selection import asked_samples
from mllm_eval.saved import saved_runs
from mllm_eval.score.files import ScoredFile, ScoringOptions
from mllm_eval.storage import sha256_file, write_atomic


@settings()
def keep_answers(
    name: str,
    benchmark: str,
    file: Path,
    scored: ScoredFile,
    options: ScoringOptions,
    reporter: Reporter | None = None,
) -> Imported:
    """Store a file of answers under a name and score it by all rule sets.

    Answers and scores that this name already has for the benchmark and variant are replaced. Samples without an answer
    in the file count as failed.

    Raises:
        UserError: the name can't name a row or is an encoder's; or the file brings its own records, so that its
            answers are not comparable with other rows.
    """
    if name in {*names("encoders"), *(run.encoder.name for run in saved_runs())}:
        raise UserError(f"{name!r} is an encoder; give answers that were made elsewhere a name of their own")
    data, variant = options.pin, options.variant
    kept, chosen = Imported.of(name, data), load_benchmark(benchmark)
    if scored.brought:
        raise UserError(f"{file}: its lines bring their own records; a row needs answers to the data '{data}' itself")
    states = DataStates(data)
    states.of(chosen, variant)
    samples = asked_samples(chosen, data, variant)
    source = answers_variant(chosen, variant, data)
    with working(kept, reporter) as ledger, ledger.step(f"scores: {titled(chosen, variant)}", "scores",
                                                        of=AskedVariant(chosen.name, variant)):  # fmt: skip
        lines = (_answer(sample.id, scored.predictions.get(sample.id), file).line().encode() for sample in samples)
        write_atomic(kept.answers_path(chosen.name, source), lines)
        score_answers(kept, chosen, variant, samples, states)
        kept.note_file(
            titled(chosen, variant), {"file": file.name, "sha256": sha256_file(file), "format": options.layout}
        )
    return kept


def _answer(id_: str, text: str | None, file: Path) -> Answer:
    if text is None:
        return Answer(id_, "", (), "", 0, 0, "error", f"no answer in {file.name}")
    return Answer(id_, "", (), text, 0, 0)
