from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mllm_eval.answers import Answer, Journal, read_answers
from mllm_eval.errors import UserError


def an_answer(name: str, text: str = "yes") -> Answer:
    return Answer(name, "0" * 16, ("1" * 16,), text, 40, 2)


ANSWERS = [
    an_answer("b", "two\nlines, \u2028 and \x85 ü"),
    an_answer("a", ""),
    replace(an_answer("c"), state="error"),
]


def test_answers_come_back_as_they_were_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "deep" / "gqa.jsonl")
    assert journal.done() == {} and not journal.complete
    journal.append(ANSWERS)
    assert list(Journal(journal.path).done().values()) == ANSWERS
    assert not journal.complete and not journal.path.exists()


def test_finish_writes_in_sample_order_and_marks_complete(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "gqa.jsonl")
    journal.append(ANSWERS)
    journal.finish(["a", "b", "c"])
    assert journal.complete and not journal.part.exists()
    assert [answer.id for answer in read_answers(journal.path)] == ["a", "b", "c"]
    written = journal.path.read_bytes()
    journal.finish(["a", "b", "c"])
    assert journal.path.read_bytes() == written


def test_finish_refuses_while_a_sample_has_no_answer(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "gqa.jsonl")
    journal.append(ANSWERS[:1])
    with pytest.raises(ValueError, match="2 samples have no answer, the first is 'a'"):
        journal.finish(["a", "b", "c"])
    assert journal.part.exists() and not journal.path.exists()


def test_appending_to_a_finished_journal_replaces_answers(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "gqa.jsonl")
    journal.append(ANSWERS)
    journal.finish(["a", "b", "c"])
    journal.append([an_answer("c", "mended"), an_answer("d")])
    assert not journal.complete
    assert journal.done()["c"].text == "mended"
    journal.finish(["d", "c"])
    assert [answer.id for answer in read_answers(journal.path)] == ["d", "c"]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 10_000), first=st.integers(1, 3))
def test_a_write_cut_off_anywhere_ends_with_the_same_bytes(tmp_path: Path, cut: int, first: int) -> None:
    whole, broken = Journal(tmp_path / "whole.jsonl"), Journal(tmp_path / "broken.jsonl")
    for journal in (whole, broken):
        journal.path.unlink(missing_ok=True)
        journal.part.unlink(missing_ok=True)
        journal.append(ANSWERS[:first])
    data = broken.part.read_bytes()
    kept = data[: cut % (len(data) + 1)]
    broken.part.write_bytes(kept)
    again = Journal(broken.path)
    assert len(again.done()) == kept.count(b"\n")
    again.append([answer for answer in ANSWERS if answer.id not in again.done()])
    whole.append(ANSWERS[first:])
    for journal in (whole, again):
        journal.finish(["a", "b", "c"])
    assert again.path.read_bytes() == whole.path.read_bytes()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "not a line of JSON"),
        ("", "not a line of JSON"),
        ("[]", "exactly the fields"),
        ('{"id": "a"}', "exactly the fields"),
        (
            an_answer("a").line().replace('"tokens_in": 40', '"tokens_in": true').strip(),
            "'tokens_in' is not a int",
        ),
        (an_answer("a").line().replace('"ok"', '"fine"').strip(), "'fine' is neither"),
        (an_answer("a").line().replace("{", '{"text": "red", ').strip(), "field 'text' is there twice"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    journal = Journal(tmp_path / "gqa.jsonl")
    text = an_answer("x").line() + line + "\n" + an_answer("y").line()
    journal.part.write_text(text)
    with pytest.raises(UserError, match=rf"gqa.jsonl.part:2: .*{says}"):
        journal.done()
    journal.path.write_text(text)
    with pytest.raises(UserError, match=rf"gqa.jsonl:2: .*{says}"):
        read_answers(journal.path)


def test_a_file_that_answers_a_sample_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gqa.jsonl"
    path.write_text(an_answer("a").line() + an_answer("b").line() + an_answer("a", "no").line())
    with pytest.raises(UserError, match=r"gqa.jsonl:3: sample 'a' was answered in line 1"):
        read_answers(path)
    with pytest.raises(UserError, match="no such file"):
        read_answers(tmp_path / "none.jsonl")


def test_reading_answers_needs_no_torch() -> None:
    code = "import sys, mllm_eval.answers; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def lengths(journal: Journal) -> dict[str, int]:
    return {answer.id: answer.tokens_out for answer in journal.done().values()}


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [
        (8, 8, {"a": 3, "b": 8, "c": 5}),
        (8, 16, {"a": 3, "c": 5}),  # b may have been cut
        (8, 5, {"a": 3, "c": 5}),  # b is longer, c ends just there
        (8, 4, {"a": 3}),
        (16, 8, {"a": 3, "b": 8, "c": 5}),
    ],
)
def test_another_limit_of_generation_drops_what_it_would_change(
    old: int, new: int, kept: dict[str, int], tmp_path: Path
) -> None:
    journal = Journal(tmp_path / "gqa.blind.jsonl")
    assert journal.hold_to(old) == 0 and not list(tmp_path.iterdir())
    journal.append([replace(an_answer(name), tokens_out=n) for name, n in {"a": 3, "b": 8, "c": 5}.items()])
    journal.finish(["a", "b", "c"])
    written = journal.path.read_bytes()
    again = Journal(journal.path)
    assert again.hold_to(new) == 3 - len(kept) and lengths(again) == kept
    assert again.complete is (len(kept) == 3) and Journal(journal.path).hold_to(new) == 0
    assert (tmp_path / "gqa.blind.limit").read_text() == f"{new}\n"
    if len(kept) == 3:
        assert journal.path.read_bytes() == written


def test_a_journal_from_before_there_were_limits_stays_whole(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "gqa.jsonl")
    journal.append([replace(an_answer("a"), tokens_out=32)])
    journal.finish(["a"])
    assert not journal.limit.exists()
    assert Journal(journal.path).hold_to(16) == 0 and journal.complete and lengths(journal) == {"a": 32}
    assert Journal(journal.path).hold_to(512) == 1
    journal.limit.write_text("many")
    with pytest.raises(UserError, match=r"gqa\.limit: 'many' is no number"):
        Journal(journal.path).hold_to(512)


def test_several_processes_append_to_parts_of_their_own_and_the_next_run_takes_them_together(tmp_path: Path) -> None:
    path = tmp_path / "gqa.jsonl"
    Journal(path).append([an_answer("a", "old"), replace(an_answer("e"), state="error")])
    ranks = [Journal(path, rank) for rank in range(3)]
    assert [journal.hold_to(8) for journal in ranks] == [0, 0, 0]
    for journal, name in zip(ranks, "bcd", strict=True):
        journal.append([an_answer(name)])
    ranks[2].append([an_answer("e", "mended")])
    assert [part.name for part in ranks[0].parts()] == ["gqa.jsonl.part", "gqa.jsonl.part.1", "gqa.jsonl.part.2"]
    with open(ranks[1].part, "ab") as file:
        file.write(b'{"id": "torn')
    # Killed, and gone on with by one process: what it appends counts, whatever the others have left.
    alone = Journal(path)
    assert sorted(alone.done()) == ["a", "b", "c", "d", "e"] and not alone.complete
    alone.hold_to(8)
    alone.append([an_answer("d", "new")])
    assert alone.parts() == [alone.part]
    alone.finish("edcba")
    assert alone.complete
    assert [answer.text for answer in read_answers(path)] == ["mended", "new", "yes", "yes", "old"]
    assert {file.name for file in tmp_path.iterdir()} == {"gqa.jsonl", ".gqa.jsonl.sum", "gqa.limit"}


def test_finishing_takes_every_part(tmp_path: Path) -> None:
    path = tmp_path / "gqa.jsonl"
    for rank, name in enumerate("abc"):
        Journal(path, rank).append([an_answer(name)])
    Journal(path).finish("cab")
    assert Journal(path).complete and [answer.id for answer in read_answers(path)] == list("cab")


def test_any_rank_notes_the_limit_that_it_answers_under(tmp_path: Path) -> None:
    path = tmp_path / "gqa.jsonl"
    second = Journal(path, 1)
    second.hold_to(2)
    second.append([an_answer("a")])
    # The answer of two tokens may have been cut by the limit of two.
    assert Journal(path).hold_to(4) == 1 and Journal(path).done() == {}


def test_a_journal_that_another_rank_finishes_while_it_is_read_has_all_its_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = Journal(tmp_path / "x.jsonl"), Journal(tmp_path / "x.jsonl", rank=1)
    first.hold_to(8)
    first.append(ANSWERS)
    listed = other.parts()
    first.finish([one.id for one in ANSWERS])
    parts = Journal.parts
    stale = iter([listed])
    monkeypatch.setattr(Journal, "parts", lambda self: next(stale, None) or parts(self))
    assert listed and [*other.done()] == [one.id for one in ANSWERS]
