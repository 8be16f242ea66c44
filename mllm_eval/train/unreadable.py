"""Images of a stage that cannot be decoded: their rows teach nothing, and count as broken rows.

Which images those are follows from their files alone, so it does not depend on processes, order or a kill in between.
Each is a small file in the stage's folder that any process may write, and write again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mllm_eval.errors import UserError
from mllm_eval.storage import write_json
from mllm_eval.train.rowtokens import TokenisedSet

log = logging.getLogger(__name__)


class Unreadable:
    """The images of a stage found unreadable so far, by number; `refresh` reads what other processes found."""

    def __init__(self, stage: Path, data: TokenisedSet) -> None:
        self.folder = stage / "unreadable"
        self.data = data
        self.images: set[int] = set()
        self.refresh()

    def refresh(self) -> None:
        """Read what is noted."""
        self.images = {int(path.stem) for path in self.folder.glob("[0-9]*.json")}

    def add(self, reasons: Mapping[int, str]) -> None:
        """Note images and why they cannot be read.

        Raises UserError where more rows are broken by now than `skip_broken` of their set allows.
        """
        for image, reason in sorted(reasons.items()):
            if image in self.images:
                continue
            # Refused ones are not noted: mended, they are read again.
            self.refresh()
            self._hold_to_budget(image, reason)
            write_json(self.folder / f"{image}.json", {"reason": reason})
            self.images.add(image)
            log.warning("%s; the rows that show it are left out", reason)

    def rows(self, images: set[int] | None = None) -> NDArray[np.int64]:
        """The rows that show such an image, in ascending order."""
        wanted = np.array(sorted(self.images if images is None else images), np.int64)
        shown = np.flatnonzero(np.isin(self.data.image_of, wanted)) if len(wanted) else wanted
        return np.unique(np.searchsorted(self.data.image_offsets, shown, side="right") - 1)

    def listed(self) -> list[dict[str, Any]]:
        """Row, why and reason of each row that shows such an image, in the rows' order."""
        reasons = {
            image: json.loads((self.folder / f"{image}.json").read_bytes())["reason"] for image in sorted(self.images)
        }
        listed = []
        for row in self.rows().tolist():
            span = slice(self.data.image_offsets[row], self.data.image_offsets[row + 1])
            reason = next(reasons[image] for image in self.data.image_of[span].tolist() if image in reasons)
            listed.append({"row": self.data.where(row), "why": "unreadable", "reason": reason})
        return listed

    def _hold_to_budget(self, image: int, reason: str) -> None:
        before = np.bincount(self.data.origin[self.rows(), 0], minlength=len(self.data.files))
        rows = self.rows(self.images | {image})
        sets = self.data.origin[rows, 0]
        counts = np.bincount(sets, minlength=len(self.data.files))
        for number in np.flatnonzero(counts > before).tolist():
            budget, broken = self.data.budgets[number], self.data.broken[number] + int(counts[number])
            if broken > budget:
                row = next(row for row in self.rows({image}).tolist() if self.data.origin[row, 0] == number)
                used = f" (broken row number {broken}, `skip_broken` allows {budget})" if budget else ""
                raise UserError(f"{self.data.where(row)}: {reason}; mend the file or remove the row{used}")
