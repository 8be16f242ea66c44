"""Counts the rows of a training stage: reported before training, and read later from the run's folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from mllm_eval.errors import UserError
from mllm_eval.storage import read_json, write_json

FILE = "rows.json"
# In the same folder: one line for each row of which a part was not used as written.
CHANGED = "changed.jsonl"

# Texts for the counts of changed rows, in output order; `{}` is the count.
_WORDS = {
    "last question": "{} last questions without an answer left out",
    "leading answer": "{} answers before the first question left out",
    "repeated marks": "{} rows with repeated <image> marks, counted once",
    "masked answers": "{} answers not learnt (weight 0)",
}


@dataclass(frozen=True)
class RowCounts:
    """Counts of the rows that a stage trains on, with and without an image.

    changed: how often each kind of `Change` occurred. left_out: rows that are not trained on, by reason: broken,
    excluded, masked (no answer to train on), unreadable (the image), too long (no answer within `max_length`).
    """

    with_image: int
    text_only: int
    changed: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def spoken(self) -> str:
        """The counts as one line of text."""
        rows = self.with_image + self.text_only
        said = f"{rows:,} rows, {self.with_image:,} with image, {self.text_only:,} text only"
        more = [words.format(f"{self.changed[key]:,}") for key, words in _WORDS.items() if self.changed.get(key)]
        more += [f"{count:,} rows left out ({why})" for why, count in sorted(self.left_out.items())]
        return "; ".join([said, *more])

    def write(self, folder: Path) -> None:
        """Write the counts to a stage's folder."""
        write_json(folder / FILE, asdict(self))


def row_counts(folder: Path) -> dict[int, RowCounts]:
    """Read the counts of a run by stage; older stages have none. Raises UserError for a file with other content."""
    counts = {}
    for number in (1, 2):
        path = folder / f"stage{number}" / FILE
        if path.is_file():
            try:
                counts[number] = RowCounts(**read_json(path))
            except TypeError:
                raise UserError(f"{path}: does not hold counts of rows; delete it") from None
    return counts
