"""Judges: a run of this project, in this process or through a server, and an external model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mllm_eval.adapters import weights_folder
from mllm_eval.catalog import Kept
from mllm_eval.environment import device, repeatable
from mllm_eval.external import ExternalModel
from mllm_eval.filtering.judging import NOT_FINITE, Judgement
from mllm_eval.filtering.spellings import Spellings, find_spellings
from mllm_eval.generate.firsttoken import FirstToken
from mllm_eval.generate.model import grid_of
from mllm_eval.generate.stock import StockModel
from mllm_eval.kernels import has_onednn
from mllm_eval.model import load_checkpoint
from mllm_eval.run import Run

if TYPE_CHECKING:
    import PIL.Image
    from numpy.typing import NDArray

    from mllm_eval.generate.server import Server
    from mllm_eval.model import VLM


# Pixels of the sides of the picture whose operations are counted for a model that takes any size.
EDGE = 512


class PreparedImage(NamedTuple):
    """The pixels float32 [3, H, W] of an image, and how many rows and columns of its tokens are shown (None: all)."""

    pixels: NDArray[np.float32]
    kept: Kept | None


def judgements(logits: Tensor, spellings: Spellings) -> list[Judgement | str]:
    """A judgement for each row of logits [B, vocabulary], in float64, or a text if they are not finite."""
    said = torch.log_softmax(logits.double(), -1)
    yes, no = (torch.logsumexp(said[:, list(ids)], -1) for ids in (spellings.yes, spellings.no))
    p_yes, mass = torch.sigmoid(yes - no).tolist(), (yes.exp() + no.exp()).tolist()
    return [Judgement(*pair) if all(map(math.isfinite, pair)) else NOT_FINITE
            for pair in zip(p_yes, mass, strict=True)]  # fmt: skip


def count_operations(call: Callable[[], object]) -> int:
    """The floating-point operations of a call, the same on every device: those of its products and convolutions.

    Attention is computed by plain products meanwhile, since torch can't count all of its kernels.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    def linear(states: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
        return 2 * math.prod(states) * weight[0]

    # torch has no formula for oneDNN's product, see `mllm_eval.kernels`.
    own = {torch.ops.mkldnn._linear_pointwise: linear} if has_onednn() else {}
    counter = FlopCounterMode(display=False, custom_mapping=own)
    with sdpa_kernel(SDPBackend.MATH), counter:
        call()
    return int(counter.get_total_flops())


class RunJudge:
    """A trained run as a judge: each image passes once through encoder, projector and LLM; no features are stored."""

    def __init__(self, run: Run, question: str, batch: int) -> None:
        """Loads the run's checkpoint. Raises UserError if the run is not trained."""
        repeatable(run.seed)
        self._take(run.checkpoint, run.recipe.template, question, batch, getattr(torch, run.recipe.dtype))

    @classmethod
    def of_checkpoint(cls, folder: Path, template: str, question: str, batch: int) -> RunJudge:
        """The judge of a checkpoint that belongs to no run, in the checkpoint's own dtype."""
        made = cls.__new__(cls)
        made._take(folder, template, question, batch, None)
        return made

    def _take(self, folder: Path, template: str, question: str, batch: int, dtype: torch.dtype | None) -> None:
        model: Any = load_checkpoint(folder, dtype)
        self.model: VLM = model.to(device())
        self.batch = batch
        self.question = FirstToken(self.model, template, question)
        self.grid = grid_of(self.model)
        self.spellings = find_spellings(self.model.tokenizer, self.model.llm.config.vocab_size)

    @property
    def about(self) -> dict[str, Any]:
        """See `Judge.about`."""
        return {
            "by": "engine",
            "batch": self.batch,
            "tokens": self.question.tokens,
            "shared": len(self.question.before),
            "whole_words": self.spellings.whole,
            **self.spellings.texts(self.model.tokenizer),
        }

    def prepare(self, image: PIL.Image.Image) -> PreparedImage:
        """See `Judge.prepare`."""
        assert self.model.encoder is not None
        kept = None if self.grid is None else self.grid.kept(image.size)
        return PreparedImage(self.model.encoder.preprocess(image), kept)

    def features(self, prepared: Sequence[PreparedImage]) -> Tensor:
        """Patch features [n, h, w, D]. The batch is padded to full size, so that every batch has the same shape."""
        filled = np.zeros((self.batch, *prepared[0].pixels.shape), np.float32)
        filled[: len(prepared)] = [one.pixels for one in prepared]
        return self.model.encode(torch.from_numpy(filled))[: len(prepared)]

    @torch.inference_mode()
    def judge(self, prepared: Sequence[PreparedImage]) -> list[Judgement | str]:
        """See `Judge.judge`."""
        logits = self.question.logits(self.features(prepared), [one.kept for one in prepared])
        return judgements(logits, self.spellings)


class ServedJudge(RunJudge):
    """A trained run whose LLM is on a vLLM server, which gets prompts as embeddings and returns log-probabilities."""

    def __init__(self, run: Run, question: str, batch: int, server: Server) -> None:
        super().__init__(run, question, batch)
        self.server = server

    @property
    def about(self) -> dict[str, Any]:
        """See `Judge.about`."""
        return {**super().about, "by": "server"}

    @torch.inference_mode()
    def judge(self, prepared: Sequence[PreparedImage]) -> list[Judgement | str]:
        """See `Judge.judge`. The server returns only the likeliest tokens; a word that is not among them gets 0."""
        images = self.question.embed(self.features(prepared), [one.kept for one in prepared])
        prompts = [self.question.prompt(image) for image in images]
        with ThreadPoolExecutor(self.server.at_once) as pool:
            return [self._read(told) for told in pool.map(self.server.first_token, prompts)]

    def _read(self, told: dict[int, float]) -> Judgement | str:
        yes, no = (
            sum(math.exp(told[token]) for token in ids if token in told)
            for ids in (self.spellings.yes, self.spellings.no)
        )
        if not yes and not no:
            return f"neither yes nor no is among the {len(told)} likeliest first tokens"
        return Judgement(yes / (yes + no), yes + no)


class StockJudge:
    """An external model in the hub's format, asked through its own processor and chat template."""

    def __init__(self, model: ExternalModel, question: str, batch: int) -> None:
        repeatable(0)
        self.stock = StockModel(weights_folder(model.weights), model.dtype, device(), batch)
        self.batch, self.question = batch, question
        words = self.stock.model.get_output_embeddings()
        self.spellings = find_spellings(self.stock.tokenizer, words.weight.shape[0])
        self.flops = self._operations()

    @property
    def about(self) -> dict[str, Any]:
        """See `Judge.about`."""
        counted = {} if self.flops is None else {"flops": self.flops}
        return {"by": "transformers", "batch": self.batch, "whole_words": self.spellings.whole,
                **self.spellings.texts(self.stock.tokenizer), **counted}  # fmt: skip

    def _operations(self) -> int | None:
        """The floating-point operations for a square picture, counted by torch; None if the model refuses it.

        The architecture is not known here.
        """
        import PIL.Image

        picture = PIL.Image.new("RGB", (EDGE, EDGE), "grey")
        try:
            return count_operations(lambda: self.stock.first_logits(self.question, [picture]))
        except (ValueError, TypeError, LookupError, RuntimeError):
            return None

    def prepare(self, image: PIL.Image.Image) -> PIL.Image.Image:
        """Returns the image itself, since the model's processor preprocesses whole batches."""
        return image

    def judge(self, prepared: Sequence[PIL.Image.Image]) -> list[Judgement | str]:
        """See `Judge.judge`."""
        return judgements(self.stock.first_logits(self.question, prepared), self.spellings)
