"""Answers of anyone, in the layouts of several harnesses, and the journal of a run."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import parquet_rows

from fuzzing.mutation import Input, changed_bytes, changed_cells, changed_lines
from fuzzing.running import Changed, Subject
from mllm_eval.answers import Answer, Journal, read_answers
from mllm_eval.score.files import ScoringOptions, score_answers

COLOURS = ["red", "green", "blue", "white"]
ROWS = [{"type": "human_test", "question": f"Which is bar {number}?", "answer": COLOURS[number % 4],
         "image": parquet_rows.png(number)} for number in range(6)]  # fmt: skip


class Answers(Subject):
    """A file of answers to six questions: those that were not touched are scored as in the sound file."""

    layout = "jsonl"
    ending = ".jsonl"

    def __init__(self, home: Path) -> None:
        self.benchmark = parquet_rows.unpinned("chartqa")
        parquet_rows.write_mini(home / "data", self.benchmark, ROWS)
        self.path = home / f"answers{self.ending}"
        self.inputs, sound = self.prepare()
        self.path.write_bytes(sound)
        self.sound = self.scores()

    def prepare(self) -> tuple[Any, bytes]:
        rows = [self.line(number, row) for number, row in enumerate(ROWS)]
        return changed_lines(rows), b"\n".join(json.dumps(row).encode() for row in rows)

    def line(self, number: int, row: dict[str, Any]) -> dict[str, Any]:
        return {"id": str(number), "prediction": row["answer"], "question": row["question"], "gold": row["answer"]}

    def scores(self) -> dict[str, Any]:
        scored = score_answers(self.benchmark, self.path, ScoringOptions(partial=True, layout=self.layout))
        return {one.id: (one.score, one.parsed) for one in scored.scores}

    def read(self, given: Input) -> str:
        self.path.write_bytes(given.data)
        found = self.scores()
        if given.touched is not None:
            left = {name for name in self.sound if int(name) not in given.touched}
            if wrong := [name for name in left if found.get(name, self.sound[name]) != self.sound[name]]:
                raise Changed(f"the score of sample {min(wrong)}")
            if lost := left - found.keys():
                raise Changed(f"sample {min(lost)} is gone")
        return "counted" if any(score is None for score, _ in found.values()) or len(found) < len(ROWS) else "read"


class Cambrian(Answers):
    layout = "cambrian"

    def line(self, number: int, row: dict[str, Any]) -> dict[str, Any]:
        prompt = f"A chat. USER: <image>\n{row['question']}\nAnswer the question using a single number or phrase."
        return {"question_id": number, "prompt": prompt, "answer": row["answer"], "gt_answer": row["answer"]}


class LmmsEval(Answers):
    layout = "lmms_eval"

    def line(self, number: int, row: dict[str, Any]) -> dict[str, Any]:
        doc = {"type": row["type"], "question": row["question"], "answer": row["answer"]}
        return {"doc_id": number, "target": row["answer"], "doc": doc, "resps": [[row["answer"]]],
                "filtered_resps": [row["answer"]]}  # fmt: skip


class Sheet(Answers):
    layout, ending = "vlmevalkit", ".tsv"
    head: ClassVar[list[str]] = ["index", "question", "answer", "prediction"]

    def cells(self) -> list[list[str]]:
        return [[str(number), row["question"], row["answer"], row["answer"]] for number, row in enumerate(ROWS)]

    def prepare(self) -> tuple[Any, bytes]:
        text = "\n".join("\t".join(row) for row in [self.head, *self.cells()])
        return changed_cells(self.head, self.cells(), "\t"), text.encode()


class Xlsx(Sheet):
    ending = ".xlsx"

    def prepare(self) -> tuple[Any, bytes]:
        import openpyxl

        book = openpyxl.Workbook()
        for row in [self.head, *self.cells()]:
            book.active.append(row)
        held = io.BytesIO()
        book.save(held)
        return changed_bytes(held.getvalue()).map(Input), held.getvalue()


class Kept(Subject):
    """A run's journal, gone on with: answers that were not touched stay."""

    def __init__(self, home: Path) -> None:
        self.rows = [
            Answer(str(number), "0" * 16, ("1" * 16,), f"answer {number}", 30, 3) for number in range(5)
        ] + [Answer("5", "0" * 16, (), "", 0, 0, "error", "no")]  # fmt: skip
        self.inputs = changed_lines([json.loads(one.line()) for one in self.rows])
        self.path = home / "answers/x.jsonl"
        self.path.parent.mkdir()

    def read(self, given: Input) -> str:
        for finished in (False, True):
            for path in self.path.parent.iterdir():
                path.unlink()
            journal = Journal(self.path)
            (self.path if finished else journal.part).write_bytes(given.data)
            journal.hold_to(8)
            found = journal.done()
            for number, one in enumerate(self.rows):
                if given.touched is not None and number not in given.touched and found.get(one.id) != one:
                    raise Changed(f"answer {number}")
            journal.append([one for one in self.rows if one.id not in found])
            journal.finish([one.id for one in self.rows])
            if [one.id for one in read_answers(self.path)] != [one.id for one in self.rows]:
                raise Changed("the finished file")
        return "read"


SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    "answers": Answers, "cambrian answers": Cambrian, "lmms-eval samples": LmmsEval, "sheet": Sheet,
    "xlsx sheet": Xlsx, "journal": Kept,
}  # fmt: skip
