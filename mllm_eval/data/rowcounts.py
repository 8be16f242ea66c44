"""What the rows of a stage of training are, counted: said before it begins, and read from the run's folder later."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from mllm_eval.errors import UserError
from mllm_eval.storage import read_json, write_json

FILE = "rows.json"
# Beside it: one line for each row of which something was not taken as it stands.
CHANGED = "changed.jsonl"

# What is counted of rows that are used, in the order in which it is said; `{}` is the number.
_WORDS = {
    "last question": "{} last questions without an answer left out",
    "leading answer": "{} answers before the first question left out",
    "repeated marks": "{} rows with repeated <image> marks, counted once",
    "masked answers": "{} answers not learnt (weight 0)",
}


@dataclass(frozen=True)
class RowCounts:
    """Rows of a stage: those that steps read, with an image and without.

    changed: what of the file's rows was not taken as it stands, and how often. left_out: rows that no step reads, by
    why: broken, excluded, masked (no answer to learn), unreadable (the image), too long (no answer in `max_length`).
    """

    with_image: int
    text_only: int
    changed: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def spoken(self) -> str:
        """In one line."""
        rows = self.with_image + self.text_only
        said = f"{rows:,} rows, {self.with_image:,} with image, {self.text_only:,} text only"
        more = [words.format(f"{self.changed[key]:,}") for key, words in _WORDS.items() if self.changed.get(key)]
        more += [f"{count:,} rows left out ({why})" for why, count in sorted(self.left_out.items())]
        return "; ".join([said, *more])

    def write(self, folder: Path) -> None:
        """Into a stage's folder."""
        write_json(folder / FILE, asdict(self))


def row_counts(folder: Path) -> dict[int, RowCounts]:
    """The counts of each stage of a run's folder; stages trained before they were kept have none."""
    counts = {}
    for number in (1, 2):
        path = folder / f"stage{number}" / FILE
        if path.is_file():
            try:
                counts[number] = RowCounts(**read_json(path))
            except TypeError:
                raise UserError(f"{path}: does not hold counts of rows; delete it") from None
    return counts
