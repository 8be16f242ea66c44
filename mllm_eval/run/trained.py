"""A run: encoder x recipe x LLM x seed, named by the hash of its config."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mllm_eval.catalog import LLM, Encoder, Given, Recipe, load_encoder, load_llm, load_recipe
from mllm_eval.config import Strict, load, short_hash
from mllm_eval.errors import UserError, is_whole
from mllm_eval.run.folder import RunFolder
from mllm_eval.storage import write_json


class RunConfig(Strict):
    """The content of a run's config.yaml: everything that its hash covers, and the recipe's assumptions."""

    encoder: Encoder
    recipe: Recipe
    llm: LLM
    seed: int
    weights: dict[str, str]


@dataclass(frozen=True)
class Run(RunFolder):
    """A combination of encoder, recipe, LLM and seed that is trained and evaluated, and the paths of its files.

    `weights` holds digests of the encoder's and the LLM's weights (and of a tokenizer given separately). By default it
    is computed from the files.
    """

    encoder: Encoder
    recipe: Recipe
    llm: LLM
    seed: int
    weights: dict[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not self.weights:
            digests = {"encoder": self.encoder.weights.digest(), "llm": self.llm.weights.digest()}
            if self.llm.tokenizer is not None:
                digests["tokenizer"] = self.llm.tokenizer.digest()
            object.__setattr__(self, "weights", digests)

    @classmethod
    def of(
        cls,
        encoder: Given | Encoder,
        recipe: Given | Recipe = "mini",
        llm: Given | LLM | None = None,
        seed: int | None = None,
    ) -> Run:
        """Return the run of these names, files or objects; LLM and seed default to the recipe's.

        Raises:
            UserError: an unknown name (with the nearest known one), a yaml with a mistake, missing weights, or a seed
                that is no whole number from 0.
        """
        if seed is not None and (not is_whole(seed) or seed < 0):
            raise UserError(f"seed {seed!r}: give a whole number, 0 or more")
        chosen = load_recipe(recipe)
        return cls(
            encoder=load_encoder(encoder, chosen),
            recipe=chosen,
            llm=load_llm(chosen.llm if llm is None else llm),
            seed=chosen.seed if seed is None else int(seed),
        )

    @classmethod
    def load(cls, folder: Path) -> Run:
        """Return the run of a folder that `prepare` has written.

        Raises:
            UserError: no config.yaml, a mistake in it, or a hash that is not the folder's name.
        """
        return cls.of_config(load(folder / "config.yaml", RunConfig), folder)

    @classmethod
    def of_config(cls, config: RunConfig, folder: Path) -> Run:
        """Return the run of a config. Raises UserError where its hash is not the folder's name."""
        run = cls(config.encoder, config.recipe, config.llm, config.seed, config.weights)
        run.refuse_earlier_tokens(folder)
        if run.hash != folder.name:
            raise UserError(
                f"{folder / 'config.yaml'}: describes run {run.hash}, not {folder.name}: it was edited, or "
                "made by another version. Restore the file or delete the folder."
            )
        return run

    def identity(self) -> dict[str, Any]:
        """Return everything that can change a result of this run; `hash` is computed from it."""
        return {
            "encoder": self.encoder.identity(),
            "recipe": self.recipe.identity(),
            "llm": self.llm.identity(),
            "seed": self.seed,
            "weights": self.weights,
        }

    @cached_property
    def hash(self) -> str:
        """12 hex digits of the hash of `identity`."""
        return short_hash(self.identity())

    def earlier_hashes(self) -> list[str]:
        """Return this run's hashes under earlier versions that tokenised its template differently, latest first."""
        own = self.identity()
        recipe = {key: value for key, value in own["recipe"].items() if key != "template_tokens"}
        versions = range(own["recipe"].get("template_tokens", 1) - 1, 0, -1)
        marks: list[dict[str, int]] = [{} if one == 1 else {"template_tokens": one} for one in versions]
        return [short_hash({**own, "recipe": {**recipe, **mark}}) for mark in marks]

    def earlier_here(self) -> list[str]:
        """Return those of `earlier_hashes` that have a folder."""
        return [one for one in self.earlier_hashes() if self.folder.with_name(one).is_dir()]

    def refuse_earlier_tokens(self, folder: Path) -> None:
        """Raise UserError where a folder holds this run as an earlier version trained it, on other template tokens."""
        if folder.name in self.earlier_hashes():
            raise UserError(
                f"{folder / 'config.yaml'}: an earlier version trained it on other tokens of the template "
                f"{self.recipe.template}; `mllm-eval eval` trains it again, as run {self.hash}. Delete the folder when "
                "you need it no more."
            )

    @property
    def stem(self) -> str:
        """The name without the hash: encoder, recipe and seed."""
        return f"{self.encoder.name}-{self.recipe.name}-s{self.seed}"

    @property
    def heading(self) -> str:
        return f"{self.encoder.name}, recipe {self.recipe.name}"

    @property
    def data(self) -> str:
        return self.recipe.data

    def prepare(self) -> None:
        """Write config.yaml, and manifest.json with software versions, git state and hardware.

        Files that a crash left incomplete are rewritten.
        """
        self.write_config()
        self.note_session()

    config_width = 110

    def config(self) -> dict[str, Any]:
        """Return encoder, recipe, LLM, seed and the digests of the weights as plain data."""
        return {
            "encoder": self.encoder.model_dump(mode="json"),
            "recipe": self.recipe.model_dump(mode="json"),
            "llm": self.llm.model_dump(mode="json"),
            "seed": self.seed,
            "weights": self.weights,
        }

    def noted(self) -> dict[str, Any]:
        """Return the recipe's hash and assumptions, the seed, and the recorded training data if there are any."""
        held = self.manifest()
        return {
            "recipe_hash": self.recipe.hash,
            "seed": self.seed,
            "assumed": self.recipe.assumed(),
            "training_again_on_a_gpu": "the same bytes" if self.recipe.deterministic else "may round otherwise",
            **{key: held[key] for key in ("trained_on",) if key in held},
        }

    def note_training_data(self, files: dict[str, dict[str, Any]]) -> None:
        """Record the training data in manifest.json: the recipe's name of each file -> size in bytes and SHA-256."""
        self.note_session()
        write_json(self.folder / "manifest.json", {**self.manifest(), "trained_on": files})
