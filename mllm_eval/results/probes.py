"""Read probe results on classic vision tasks that someone put into a run's folder.

`results/runs/<hash>/probes.json` is an object: column name (`classic` in configs/reference/columns.yaml) ->

    {"value": 76.4, "n": 50000, "interval": [76.0, 76.8], "how": "linear probe of the frozen patches, 10 epochs"}

`value` and `interval` (95 % confidence, optional) are on the printed scale of the column, `n` is the number of tested
images or pixels, and `how` describes the method and the code. The file is written by hand or by other tools.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError, model_validator

from mllm_eval.config import Strict
from mllm_eval.errors import UserError, near
from mllm_eval.results.columns import columns
from mllm_eval.storage import read_json

FILE = "probes.json"


class Probe(Strict):
    """One result of a probe; its value must lie within its interval, if it has one."""

    value: float = Field(allow_inf_nan=False)
    n: int = Field(ge=1)
    how: str = Field(min_length=1)
    interval: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _holds_value(self) -> Probe:
        if self.interval and not self.interval[0] <= self.value <= self.interval[1]:
            raise ValueError(f"the value {self.value:g} is not within its interval")
        return self


def read_probes(folder: Path) -> dict[str, Probe]:
    """Return column -> result of a run's folder, in the order of the columns; empty without a file.

    Raises:
        UserError: naming file and entry, for a name that is no such column, or an incomplete entry.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    raw, known = read_json(path), columns().classic
    if not isinstance(raw, dict):
        raise UserError(f"{path}: not an object of name -> result; docs/report.md shows one")
    probes = {}
    for name, entry in raw.items():
        if name not in known:
            raise UserError(f"{path}: {name!r} is no column of classic vision.{near(name, known)} "
                            f"Known: {', '.join(known)}")  # fmt: skip
        try:
            probes[name] = Probe.model_validate(entry)
        except ValidationError as error:
            first = error.errors()[0]
            at = ".".join([name, *map(str, first["loc"])])
            raise UserError(f"{path}: {at}: {first['msg']}; docs/report.md shows a whole entry") from None
    return {name: probes[name] for name in known if name in probes}
