"""Which backend answers for a run or an external model, loaded when the first question is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from mllm_eval.adapters import weights_folder
from mllm_eval.distributed import decided
from mllm_eval.environment import device, repeatable
from mllm_eval.errors import UserError
from mllm_eval.external import ExternalModel
from mllm_eval.features.together import fill_together
from mllm_eval.generate import Backend, ChatFormat, Limits, PromptFormat, TemplateFormat
from mllm_eval.generate.positions import positions_in
from mllm_eval.pipeline.ledger import Ledger
from mllm_eval.run import Run

if TYPE_CHECKING:
    from mllm_eval.data.samples import ImageRef
    from mllm_eval.features import Features
    from mllm_eval.generate.server import Server
    from mllm_eval.model import VLM
    from mllm_eval.progress import Progress


class BackendSource(Protocol):
    """What must be known before a model is loaded, and the loading."""

    @property
    def prompts(self) -> PromptFormat:
        """How its prompts are written."""
        ...

    @property
    def positions(self) -> int | None:
        """How many tokens its LLM can hold in a row, where that can be told without loading it."""
        ...

    def load(self) -> Backend:
        """The backend. Raises UserError where the model cannot be asked."""
        ...

    def missing_features(self, images: Sequence[ImageRef]) -> set[str]:
        """The SHA-256 of those images that are to be encoded before they are asked about."""
        ...

    def encode(
        self, images: Sequence[ImageRef], progress: Progress, broken: Callable[[ImageRef, Exception], None]
    ) -> None:
        """Encode those of the images that are missing; `broken` is told of each that cannot be read."""
        ...


class RunSource:
    """A trained run, answered by this project's engine or by a server. Making one costs nothing."""

    def __init__(self, run: Run, train: Callable[[], None], ledger: Ledger, server: Server | None = None) -> None:
        """`train` sees to the training. `server` answers in the engine's place, given embeddings."""
        self.run, self.train, self.ledger, self.server = run, train, ledger, server

    @property
    def prompts(self) -> PromptFormat:
        """Those of the recipe's template."""
        return TemplateFormat(self.run.recipe.template)

    @cached_property
    def positions(self) -> int | None:
        """How many tokens the trained LLM can hold in a row, where its checkpoint says so."""
        return positions_in(self.run.checkpoint)

    @cached_property
    def model(self) -> VLM:
        """The checkpoint, for evaluation."""
        self.train()
        repeatable(self.run.seed)
        import torch

        from mllm_eval.kernels import kernels_here, use_kernels
        from mllm_eval.model import load_checkpoint

        kernels = self.run.recipe.kernels
        with self.ledger.step("load the checkpoint", "load", kernels=kernels_here(kernels)):
            model = load_checkpoint(self.run.checkpoint, getattr(torch, self.run.recipe.dtype), encoder=False)
            use_kernels(model, kernels)
            model.to(device())  # type: ignore[arg-type]  # transformers wraps it without its types
            return model

    @cached_property
    def features(self) -> Features:
        """The encoder's features of any image, from the store where it has them."""
        repeatable(self.run.seed)
        from mllm_eval.features import Features

        return Features.of(self.run)

    def load(self) -> Backend:
        """The engine with the limits that the run has kept, or the server's backend."""
        model, template = self.model, self.run.recipe.template
        if self.server:
            from mllm_eval.generate.server import ServerBackend

            # A line of the ledger says who answered: its sums are rounded otherwise than the engine's.
            with self.ledger.step(f"asking {self.server.serves} at {self.server.url}", "server"):
                pass
            return ServerBackend(model, template, lambda images: self.features(images), self.server)
        from mllm_eval.model.internals import fault

        if problem := fault():
            from mllm_eval.generate.reference import Reference

            self.ledger.reporter.say(f"answered one by one, because {problem}")
            return Reference(model, template, lambda images: self.features(images))
        from mllm_eval.generate.engine import Engine

        return Engine(model, template, lambda images: self.features(images), self._limits(model))

    def _limits(self, model: VLM) -> Limits:
        from mllm_eval.generate.backoff import kept_limits

        return decided(lambda: kept_limits(self.run.answers_path("limits").with_suffix(".json"), model))

    def missing_features(self, images: Sequence[ImageRef]) -> set[str]:
        """Those that the feature store does not have."""
        return set(self.features.store.missing(image.sha256 for image in images))

    def encode(
        self, images: Sequence[ImageRef], progress: Progress, broken: Callable[[ImageRef, Exception], None]
    ) -> None:
        """Fill the feature store, each process with its share."""
        fill_together(self.features, images, progress, broken)


class ExternalSource:
    """An external model, asked through its own processor."""

    def __init__(self, model: ExternalModel, ledger: Ledger) -> None:
        self.model, self.ledger = model, ledger

    @property
    def prompts(self) -> PromptFormat:
        """Its own, told apart by their messages."""
        return ChatFormat(self.model.overruled or {})

    @cached_property
    def positions(self) -> int | None:
        """What its config says; None too where it is not on this machine: what was asked before is all there is."""
        try:
            return positions_in(weights_folder(self.model.weights))
        except UserError:
            return None

    def load(self) -> Backend:
        """The model with its processor."""
        repeatable(0)
        from mllm_eval.generate.stock import StockModel

        chosen = self.model
        with self.ledger.step("load the model", "load"):
            return StockModel(weights_folder(chosen.weights), chosen.dtype, device(), chosen.batch)

    def missing_features(self, images: Sequence[ImageRef]) -> set[str]:
        """None: it encodes what it is shown."""
        return set()

    def encode(
        self, images: Sequence[ImageRef], progress: Progress, broken: Callable[[ImageRef, Exception], None]
    ) -> None:
        """Nothing."""
