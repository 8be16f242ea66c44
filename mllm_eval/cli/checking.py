"""`mllm-eval check`: compares encoder yaml files with their weights, and the engine with the plain loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mllm_eval.catalog import Encoder, load_encoder, names
from mllm_eval.console import say
from mllm_eval.environment import before_torch, device
from mllm_eval.errors import UserError

if TYPE_CHECKING:
    from mllm_eval.adapters.base import EncoderModel
    from mllm_eval.adapters.examination import Examination
    from mllm_eval.generate.determinism import AnswerAgreement, AnswerDifference


def check_encoders(name: str | None) -> bool:
    """Load one encoder, or all, compare it with the facts in its yaml, and print the result. Return True if all agree.

    If no name is given, encoders whose weights were not downloaded are listed, and do not count as errors.

    Raises:
        UserError: the name is unknown.
    """
    before_torch()
    right = True
    for encoder in [load_encoder(name)] if name else [load_encoder(known) for known in names("encoders")]:
        try:
            lines, fine = _check(encoder, skip_absent=name is None)
        except UserError as error:
            lines, fine = [f"{encoder.name}: {error}"], False
        right = right and fine
        say(*lines, sep="\n")
    return right


def check_determinism(name: str | None, samples: int | None) -> bool:
    """Answer a run's questions by the engine and by the plain loop, and print how many answers agree, and the others.

    Return True if the only differences are ties (two logits that are equal up to rounding). `samples`: approximate
    number of questions per benchmark; None: all.

    Raises:
        UserError: no name was given, or it fits no run or several.
    """
    from mllm_eval.cli.display import display
    from mllm_eval.pipeline.recheck import compare_engines
    from mllm_eval.saved import saved_run

    if name is None:
        raise UserError("say which run: mllm-eval check RUN --determinism, a hash or an encoder of `mllm-eval ls`")
    run = saved_run(name)
    agreements = compare_engines(run, samples, display())
    say(f"{run.name}: {agreement_line(list(agreements.values()), len(agreements))}")
    for agreement in agreements.values():
        for one in agreement.differences:
            say(*difference_lines(one), sep="\n")
    return all(agreement.sound for agreement in agreements.values())


def agreement_line(agreements: list[AnswerAgreement], asked: int) -> str:
    """One line: how many questions got the same tokens from the engine and the plain loop.

    asked: number of lists of questions (one per benchmark and variant).
    """
    questions, failed = sum(one.questions for one in agreements), sum(one.failed for one in agreements)
    differences = [difference for one in agreements for difference in one.differences]
    lost = f", {failed} failed in both" if failed else ""
    differ = (
        f"; {len(differences)} differ, {sum(one.tie for one in differences)} of them by a tie" if differences else ""
    )
    equal = questions - failed - len(differences)
    return f"{equal:,} of {questions:,} questions in {asked} lists have the plain loop's tokens{lost}{differ}"


def difference_lines(one: AnswerDifference) -> list[str]:
    """Three lines: where two answers to one question part, the engine's answer, and the plain loop's."""
    kind = "a tie" if one.tie else "NO TIE"
    head = f"  {one.asked} {one.id}: token {one.token}, margin {one.margin:.1e} of its logits ({kind})"
    return [head, f"    engine     {one.text!r}", f"    plain loop {one.reference!r}"]


def _check(encoder: Encoder, skip_absent: bool) -> tuple[list[str], bool]:
    from mllm_eval.adapters import load_encoder_model, weights_place
    from mllm_eval.adapters.examination import examine

    try:
        place = weights_place(encoder.weights)
    except UserError:
        if skip_absent and encoder.weights.source() is not None:
            return [f"{encoder.name}: not on this machine, nothing to check"], True
        raise
    model = load_encoder_model(encoder).to(device())
    examination = examine(model, place if place.is_dir() else None)
    return _told(model, examination), examination.repeatable


def _told(model: EncoderModel, examination: Examination) -> list[str]:
    facts, way = model.facts, model.facts.preprocessing
    dropped = f", {model.prefix} before them dropped" if model.prefix else ", none before them"
    dropped += f", {model.behind} behind them too" if model.behind else ""
    layer = facts.feature_layer + facts.depth + 1 if facts.feature_layer < 0 else facts.feature_layer
    norm = "final norm applied" if facts.norm else "without the final norm"
    weight = next(model.parameters())
    said = {
        "weights": facts.weights.digest()[:12],
        "grid": f"{model.grid} x {model.grid}, {model.grid**2} tokens of {model.width}{dropped}",
        "dtype": f"{str(weight.dtype).removeprefix('torch.')} on {weight.device.type}",
        "repeatable": f"{'yes' if examination.repeatable else 'NO'}; alone or in a batch, largest difference "
        f"{examination.batch_difference:.1e}",
        "in order": "yes" if examination.ordered else "NO: a change in the last patch moves another token most",
        "features": f"layer {layer} of {facts.depth}, {norm}; mean {examination.mean:.3f}, std {examination.std:.3f}",
        "norms": f"of the tokens: median {examination.median_norm:.2f}, largest {examination.largest_norm:.2f}",
        "pixels": f"{way.mode} to {way.size} x {way.size}, {way.interpolation}"
        + ("" if examination.processor else "; no processor beside the weights"),
    }
    verdict = "ok" if examination.repeatable else "its features are not the same twice"
    family = facts.family if facts.code is None else f"{facts.family} ({facts.code[:12]})"
    cut = "no patches" if facts.patch is None else f"patch {facts.patch}"
    shape = f"family {family}, {cut}, depth {facts.depth}, {facts.params:,} params"
    head = f"{facts.name}: {verdict}; {shape}"
    lines = [head, *(f"  {name:<11}{text}" for name, text in said.items())]
    lines += [f"  {'processor':<11}{text}" for text in examination.processor]
    return lines + [f"  {'differs':<11}{text}" for text in examination.differs]
