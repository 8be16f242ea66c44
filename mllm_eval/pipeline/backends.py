"""Choose the backend that answers for a run or an external model, and load it when the first question is asked."""

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
    """Loads a backend, and answers the questions about its model that come up before it is loaded."""

    @property
    def prompts(self) -> PromptFormat:
        """The format in which prompts are written for the model."""
        ...

    @property
    def positions(self) -> int | None:
        """The LLM's maximum sequence length in tokens; None where only a loaded model would tell it."""
        ...

    def load(self) -> Backend:
        """Load and return the backend. Raises UserError where the model cannot answer questions."""
        ...

    def missing_features(self, images: Sequence[ImageRef]) -> set[str]:
        """Return the SHA-256 of those images that must be encoded before their questions are asked."""
        ...

    def encode(
        self, images: Sequence[ImageRef], progress: Progress, broken: Callable[[ImageRef, Exception], None]
    ) -> None:
        """Encode the images whose features are missing; call `broken` for each image that cannot be read."""
        ...


class RunSource:
    """A trained run whose questions this project's engine or a server answers. Nothing is loaded on construction."""

    def __init__(self, run: Run, train: Callable[[], None], ledger: Ledger, server: Server | None = None) -> None:
        """`train` trains the run where needed. `server` answers in place of the engine, from embeddings."""
        self.run, self.train, self.ledger, self.server = run, train, ledger, server

    @property
    def prompts(self) -> PromptFormat:
        """The prompt format of the recipe's template."""
        return TemplateFormat(self.run.recipe.template)

    @cached_property
    def positions(self) -> int | None:
        """The trained LLM's maximum sequence length in tokens; None where its checkpoint does not state it."""
        return positions_in(self.run.checkpoint)

    @cached_property
    def model(self) -> VLM:
        """The run's model, trained first where needed and loaded without its encoder."""
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
        """The encoder's features of any image, read from the feature store where they are stored."""
        repeatable(self.run.seed)
        from mllm_eval.features import Features

        return Features.of(self.run)

    def load(self) -> Backend:
        """Return the engine with the run's saved limits, or the server's backend where there is a server.

        Where transformers' internals differ from what the engine needs, return `Reference`, which answers one
        question at a time.
        """
        model, template = self.model, self.run.recipe.template
        if self.server:
            from mllm_eval.generate.server import ServerBackend

            # The ledger must record that a server answered: it rounds differently from the engine.
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
        """Return the SHA-256 of the images whose features are not in the store."""
        return set(self.features.store.missing(image.sha256 for image in images))

    def encode(
        self, images: Sequence[ImageRef], progress: Progress, broken: Callable[[ImageRef, Exception], None]
    ) -> None:
        """Fill the feature store; each process encodes its share of the images."""
        fill_together(self.features, images, progress, broken)


class ExternalSource:
    """An external model, asked through its own processor."""

    def __init__(self, model: ExternalModel, ledger: Ledger) -> None:
        self.model, self.ledger = model, ledger

    @property
    def prompts(self) -> PromptFormat:
        """The model's own chat format; prompts are identified by their chat messages."""
        return ChatFormat(self.model.overruled or {})

    @cached_property
    def positions(self) -> int | None:
        """The maximum sequence length in its config.

        None where the config does not state it, or where the weights are not on this machine: then only answers that
        were already given can be used.
        """
        try:
            return positions_in(weights_folder(self.model.weights))
        except UserError:
            return None

    def load(self) -> Backend:
        """Load and return the model with its processor."""
        repeatable(0)
        from mllm_eval.generate.stock import StockModel

        chosen = self.model
        with self.ledger.step("load the model", "load"):
            return StockModel(weights_folder(chosen.weights), chosen.dtype, device(), chosen.batch)

    def missing_features(self, images: Sequence[ImageRef]) -> set[str]:
        """Return the empty set: the model encodes images itself."""
        return set()

    def encode(
        self, images: Sequence[ImageRef], progress: Progress, broken: Callable[[ImageRef, Exception], None]
    ) -> None:
        """Do nothing: the model encodes images itself."""
