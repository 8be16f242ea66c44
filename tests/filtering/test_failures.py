"""Images on which a model fails: each has its reason, the others of its batch are judged, and a broken model stops."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from made_corpus import Brightness, decisions, filtered, png, sample, tar

from mllm_eval.errors import UserError
from mllm_eval.filtering import Judgement
from mllm_eval.filtering.answering import HOPELESS


class Refusing(Brightness):
    """Refuses pictures that are taller than wide, in `prepare` or in `judge`."""

    prepares = True
    error: Exception = ValueError("height must not exceed width: <PIL.Image at 0x7f12ab>\n  hint")

    def prepare(self, image: PIL.Image.Image) -> float:
        if image.height > image.width:
            if self.prepares:
                raise self.error
            return -1
        return super().prepare(image)

    def judge(self, prepared: Sequence[float]) -> list[Judgement | str]:
        if any(one < 0 for one in prepared):
            raise self.error
        return super().judge(prepared)


def corpus(tmp_path: Path, refused: int = 1) -> Path:
    tall = [(f"tall-{place}.png", png(200, (5, 9))) for place in range(refused)]
    tar(tmp_path / "in/0.tar", [*tall, *sample("a", 200, None), *sample("b", 3, None), *sample("c", 210, None)])
    return tar(tmp_path / "in/1.tar", sample("d", 220, None)).parent


@pytest.mark.parametrize("prepares", [True, False])
@pytest.mark.parametrize(
    "kind", [ValueError, pytest.param(RuntimeError, marks=pytest.mark.slow), IndexError, UserError]
)
def test_an_image_that_the_model_refuses_fails_alone(tmp_path: Path, prepares: bool, kind: Any) -> None:
    if kind is UserError and not prepares:
        return

    class Judge(Refusing):
        error = kind("a picture <PIL.Image at 0x7f12ab> is too tall\n  hint")

    Judge.prepares = prepares
    made = filtered(corpus(tmp_path), tmp_path / "out", judge=lambda: Judge(2))
    assert [(row["key"], row["decision"]) for row in decisions(tmp_path / "out")] == [
        ("tall-0", "failed"), ("a", "kept"), ("b", "dropped"), ("c", "kept"), ("d", "kept")]  # fmt: skip
    (reason,) = {row["reason"] for row in decisions(tmp_path / "out")} - {None}
    assert reason == f"{kind.__name__}: a picture <PIL.Image> is too tall hint"
    assert made.tally.faults["no answer"].first == [f"{tmp_path}/in/0.tar: tall-0.png: {reason}"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "problem",
    [RuntimeError("CUDA error: device-side assert triggered"), RuntimeError("can't allocate memory: 9 bytes"),
     MemoryError(), UserError("the server is gone"), OSError(5, "Input/output error")],
)  # fmt: skip
def test_an_error_of_the_machine_is_no_image_of_no_answer(tmp_path: Path, problem: Exception) -> None:
    class Judge(Refusing):
        prepares = False
        error = problem

    with pytest.raises(type(problem)):
        filtered(corpus(tmp_path), tmp_path / "out", judge=lambda: Judge(2))
    assert not (tmp_path / "out/decisions/0.tar.parquet").exists()


@pytest.mark.parametrize("prepares", [True, False])
def test_a_model_that_fails_on_every_image_stops(tmp_path: Path, prepares: bool) -> None:
    class Judge(Refusing):
        pass

    Judge.prepares = prepares
    place = corpus(tmp_path, HOPELESS)
    with pytest.raises(UserError, match=rf"fails on this image and the {HOPELESS - 1} before it: ValueError: height"):
        filtered(place, tmp_path / "out", judge=lambda: Judge(4))
    assert not (tmp_path / "out/decisions").exists() or not list((tmp_path / "out/decisions").iterdir())
    # One less may be the pictures' fault.
    corpus(tmp_path, HOPELESS - 1)
    made = filtered(place, tmp_path / "out", judge=lambda: Judge(4))
    assert (made.tally.failed, made.tally.judged) == (HOPELESS - 1, 4)


@pytest.mark.slow
def test_logits_that_are_not_finite_fail_their_own_image() -> None:
    import torch

    from mllm_eval.filtering.judging import NOT_FINITE
    from mllm_eval.filtering.models import judgements
    from mllm_eval.filtering.spellings import Spellings

    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [float("nan"), 0.0, 0.0, 0.0], [9e9, 0.0, float("inf"), 0.0]])
    found = judgements(logits, Spellings((0,), (1,), True))
    assert found[0] == pytest.approx((0.5, 0.5)) and found[1:] == [NOT_FINITE, NOT_FINITE]
