"""Record images of a stage that cannot be decoded; their rows have no targets and count as broken rows.

The result depends on the image files alone, not on the number of processes, their order or interruptions. Each such
image has a small file in the stage's folder, which any process may write, repeatedly.
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
    """The numbers of a stage's images found unreadable so far; `refresh` reads what other processes found."""

    def __init__(self, stage: Path, data: TokenisedSet) -> None:
        self.folder = stage / "unreadable"
        self.data = data
        self.images: set[int] = set()
        self.refresh()

    def refresh(self) -> None:
        """Read the recorded images."""
        self.images = {int(path.stem) for path in self.folder.glob("[0-9]*.json")}

    def add(self, reasons: Mapping[int, str]) -> None:
        """Record images (by number) with the reason why they cannot be read.

        Raises UserError where a set now has more broken rows than its `skip_broken` allows.
        """
        for image, reason in sorted(reasons.items()):
            if image in self.images:
                continue
            # An image beyond the budget is not recorded, so that it is read again once its file is repaired.
            self.refresh()
            self._hold_to_budget(image, reason)
            write_json(self.folder / f"{image}.json", {"reason": reason})
            self.images.add(image)
            log.warning("%s; the rows that show it are left out", reason)

    def rows(self, images: set[int] | None = None) -> NDArray[np.int64]:
        """Return the numbers of rows that show one of `images` (by default the unreadable ones), ascending."""
        wanted = np.array(sorted(self.images if images is None else images), np.int64)
        shown = np.flatnonzero(np.isin(self.data.image_of, wanted)) if len(wanted) else wanted
        return np.unique(np.searchsorted(self.data.image_offsets, shown, side="right") - 1)

    def listed(self) -> list[dict[str, Any]]:
        """Return a record with `row`, `why` and `reason` for each row that shows an unreadable image, in row order."""
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
