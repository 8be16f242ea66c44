"""Read the configs of all runs and external models under results/runs, and find one by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllm_eval.catalog import names
from mllm_eval.config import Strict, load_chosen
from mllm_eval.errors import UserError, near
from mllm_eval.external import ExternalModel, ExternalModelFile
from mllm_eval.imported import Imported, ImportedFile
from mllm_eval.run import Run, RunConfig
from mllm_eval.storage import results_home

Saved = Run | ExternalModel | Imported


def read_saved(folder: Path) -> Saved:
    """Return the run, external model or imported answers of a folder under results/runs.

    Raises:
        UserError: no config.yaml, a mistake in it, or a run whose hash is not the folder's name.
    """
    config = load_chosen(folder / "config.yaml", _model_of)
    if isinstance(config, ExternalModelFile):
        return ExternalModel.of_config(config.model)
    if isinstance(config, ImportedFile):
        return Imported(config.imported.name, config.imported.data)
    assert isinstance(config, RunConfig)
    return Run.of_config(config, folder)


def _model_of(config: Mapping[str, Any]) -> type[Strict]:
    return ExternalModelFile if "model" in config else ImportedFile if "imported" in config else RunConfig


@dataclass(frozen=True)
class SavedRuns:
    """Everything under results/runs at the time of reading, `runs` and `external` each sorted by name.

    unreadable: folder name -> the reason why its run can't be identified: the config does not load (written by an older
    version, or edited), or is missing although there are answers, scores or a checkpoint.
    """

    runs: tuple[Run, ...]
    external: tuple[ExternalModel | Imported, ...]
    unreadable: dict[str, str]

    @property
    def notes(self) -> list[str]:
        """A sentence for each unreadable run, for displays of all runs."""
        return [f"Left out: {name}, because its config no longer loads: {why}" for name, why in self.unreadable.items()]

    def find(self, name: str) -> Saved:
        """Return the run or external model with this hash, unique hash prefix, full name, or unique short name.

        Raises UserError where none or several match.
        """
        exact = [one for one in self.external if name in (one.name, one.hash)]
        named = [one for one in self.external if one.hash.startswith(name) or name in (one.label, one.stem)]
        matching = exact or named
        if len(matching) == 1 and not any(run.hash.startswith(name) for run in self.runs):
            return matching[0]
        if len(matching) > 1:
            hashes = ", ".join(one.hash for one in matching)
            raise UserError(f"{name!r} is {len(matching)} models: {hashes}. Give one of these.")
        try:
            return self.find_run(name)
        except UserError as problem:
            if broken := [(one, why) for one, why in self.unreadable.items() if one.startswith(name)]:
                raise UserError(f"run {broken[0][0]}: its config no longer loads: {broken[0][1]}") from None
            hint = near(name, [one.label for one in self.external])
            raise UserError(f"{problem}{hint}") from None

    def find_run(self, name: str) -> Run:
        """Return the run with this hash, unique hash prefix, full name, unique name without hash, or unique encoder.

        Raises UserError where none or several match.
        """
        exact = [run for run in self.runs if name in (run.name, run.hash)]
        named = [run for run in self.runs if run.hash.startswith(name) or name in (run.encoder.name, run.stem)]
        matching = exact or named
        if len(matching) == 1:
            return matching[0]
        if matching:
            hashes = ", ".join(run.hash for run in matching)
            raise UserError(f"{name!r} is {len(matching)} runs: {hashes}. Give one of these.")
        home = results_home() / "runs"
        if name in names("encoders"):
            raise UserError(f"no run of encoder {name!r} under {home} yet; `mllm-eval eval {name}` makes one")
        known = [known for run in self.runs for known in (run.name, run.stem, run.encoder.name)]
        raise UserError(f"no run {name!r} under {home}.{near(name, known)} `mllm-eval ls` lists all.")


def read_all_saved() -> SavedRuns:
    """Read everything under results/runs."""
    runs: list[Run] = []
    external: list[ExternalModel | Imported] = []
    unreadable: dict[str, str] = {}
    for folder in sorted(path for path in (results_home() / "runs").glob("*") if path.is_dir()):
        if not (folder / "config.yaml").is_file():
            if any((folder / part).is_dir() for part in ("answers", "scores", "checkpoint")):
                unreadable[folder.name] = f"{folder}: there is no config.yaml"
            continue
        try:
            one = read_saved(folder)
        except UserError as problem:
            unreadable[folder.name] = str(problem)
            continue
        if isinstance(one, Run):
            runs.append(one)
        else:
            external.append(one)
    runs.sort(key=lambda run: run.name)
    external.sort(key=lambda one: one.name)
    return SavedRuns(tuple(runs), tuple(external), unreadable)


def saved_runs() -> list[Run]:
    """Return every readable run under results/runs, sorted by name; external models are left out."""
    return list(read_all_saved().runs)


def saved_run(name: str) -> Run:
    """Return the saved run that `SavedRuns.find_run` finds. Raises UserError where none or several match."""
    return read_all_saved().find_run(name)


def saved(name: str) -> Saved:
    """Return the run or external model that `SavedRuns.find` finds. Raises UserError where none or several match."""
    return read_all_saved().find(name)
