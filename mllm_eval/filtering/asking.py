"""The model that filters, its question and its settings, without loading the model. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mllm_eval.catalog.level import Level
from mllm_eval.environment import device
from mllm_eval.errors import UserError
from mllm_eval.external import ExternalModel
from mllm_eval.imported import Imported
from mllm_eval.run import Run
from mllm_eval.saved import read_all_saved

if TYPE_CHECKING:
    from mllm_eval.filtering.judging import Judge

# Images per batch. On a CPU, larger batches no longer fit its caches.
BATCH = {"cpu": 16, "cuda": 64}


def filtering_model(name: str, dtype: str | None = None) -> Run | ExternalModel:
    """The run or external model with this name, or the model in a folder or hub repository.

    Raises UserError if there is none, and for imported answers, which have no model to ask.
    """
    known = read_all_saved()
    try:
        model = known.find(name)
    except UserError as problem:
        try:
            return ExternalModel.of(name, **({} if dtype is None else {"dtype": dtype}))  # type: ignore[arg-type]
        except UserError as other:
            raise (other if "/" in name else problem) from None
    if isinstance(model, Imported):
        raise UserError(f"{name}: holds answers of another tool, no model that could be asked about pictures")
    return model


@dataclass(frozen=True)
class FilterQuestion:
    """A model and the question that it is asked. It can be pickled; `load` makes the judge.

    threshold: the lowest p(yes) at which an image is kept. server: address of a vLLM server that holds the run's LLM.
    """

    model: Run | ExternalModel
    level: Level
    threshold: float
    batch: int
    server: str | None = None

    @classmethod
    def of(
        cls,
        model: Run | ExternalModel,
        level: Level,
        threshold: float | None = None,
        batch: int | None = None,
        server: str | None = None,
    ) -> FilterQuestion:
        """The question with defaults: the level's threshold and the device's batch size.

        Raises UserError for a threshold outside 0 to 1, and for a server with a model that is no run.
        """
        chosen = level.threshold if threshold is None else threshold
        if not 0 < chosen < 1:
            raise UserError(f"--threshold {chosen:g}: p(yes) lies between 0 and 1")
        if server is not None and not isinstance(model, Run):
            raise UserError("--server holds the LLM of a run; an external model is asked here, as it is")
        return cls(model, level, chosen, batch or BATCH[device().partition(":")[0]], server)

    def config(self) -> dict[str, Any]:
        """Everything that can change a decision, as plain data."""
        return {
            "model": self.model.name,
            "hash": self.model.hash,
            "level": self.level.name,
            "question": self.level.question,
            "threshold": self.threshold,
            "batch": self.batch,
            # A server rounds differently, and returns the probabilities of the likeliest tokens only.
            "by": "server" if self.server else "here",
        }

    def load(self) -> Judge:
        """Loads the judge. Raises UserError if the model can't be loaded."""
        from mllm_eval.environment import before_torch

        before_torch()
        from mllm_eval.filtering.models import RunJudge, ServedJudge, StockJudge

        if not isinstance(self.model, Run):
            return StockJudge(self.model, self.level.question, self.batch)
        if self.server is None:
            return RunJudge(self.model, self.level.question, self.batch)
        from mllm_eval.generate.server import Server

        return ServedJudge(self.model, self.level.question, self.batch, Server(self.server))
