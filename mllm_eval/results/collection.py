"""The records of all runs and external models under results/runs."""

from __future__ import annotations

from collections.abc import Iterable

from mllm_eval.errors import UserError, near
from mllm_eval.results.record import RunRecord, record_of
from mllm_eval.saved import SavedRuns, read_all_saved


class Records:
    """All records of results/runs: `trained` are the runs of encoders, `every` also includes external models."""

    def __init__(self, saved: SavedRuns) -> None:
        self.saved = saved
        self.trained = [record_of(run) for run in saved.runs]
        self.every = self.trained + [record_of(one) for one in saved.external]

    @property
    def notes(self) -> list[str]:
        """A sentence for each folder whose run can no longer be identified."""
        return self.saved.notes

    def find(self, name: str) -> RunRecord:
        """Return the record that `SavedRuns.find` finds by a name. Raises UserError as it does."""
        run = self.saved.find(name)
        return next(record for record in self.every if record.run is run)


def read_records() -> Records:
    """Return the records of results/runs. Only the configs are read; other files are read at first use."""
    return Records(read_all_saved())


def hold_to_known_rules(records: Iterable[RunRecord], rules: str) -> None:
    """Raise UserError, with the nearest name, if none of these records has scores by `rules` but some have others."""
    chosen = list(records)
    if any(record.scored_by(rules) for record in chosen):
        return
    known = sorted({name for record in chosen for name in record.rules if name})
    if known:
        raise UserError(f"no run was scored by rules {rules!r}.{near(rules, known)} Known: {', '.join(known)}")
