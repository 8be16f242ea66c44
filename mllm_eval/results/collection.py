"""All runs and external models under results/runs as records."""

from __future__ import annotations

from collections.abc import Iterable

from mllm_eval.errors import UserError, near
from mllm_eval.results.record import RunRecord, record_of
from mllm_eval.saved import SavedRuns, read_all_saved


class Records:
    """All of results/runs as records: `trained` are an encoder's runs, `every` these and the external models."""

    def __init__(self, saved: SavedRuns) -> None:
        self.saved = saved
        self.trained = [record_of(run) for run in saved.runs]
        self.every = self.trained + [record_of(one) for one in saved.external]

    @property
    def notes(self) -> list[str]:
        """A sentence for each folder whose run can't be told any more."""
        return self.saved.notes

    def find(self, name: str) -> RunRecord:
        """The record of a name, as `SavedRuns.find` finds it. Raises UserError as that does."""
        run = self.saved.find(name)
        return next(record for record in self.every if record.run is run)


def read_records() -> Records:
    """Everything under results/runs; of each folder the config is read, the rest when it is asked for."""
    return Records(read_all_saved())


def hold_to_known_rules(records: Iterable[RunRecord], rules: str) -> None:
    """UserError, with the nearest name, for a rule set that none of these has scores of, where any has some."""
    chosen = list(records)
    if any(record.scored_by(rules) for record in chosen):
        return
    known = sorted({name for record in chosen for name in record.rules if name})
    if known:
        raise UserError(f"no run was scored by rules {rules!r}.{near(rules, known)} Known: {', '.join(known)}")
