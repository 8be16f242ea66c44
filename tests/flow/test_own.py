"""A benchmark, a scorer and a training set of one's own: what a change does, and what is refused at once."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from own_benchmark import ROWS, SCORER, YAML, command, evaluate, set_home, summary, the_run, watched, write
from PIL import Image

from mllm_eval import pipeline
from mllm_eval.answers import read_answers
from mllm_eval.catalog import Benchmark, load_benchmark, names
from mllm_eval.catalog.variant import VariantKey
from mllm_eval.data import content, snapshots
from mllm_eval.data.snapshots import load_samples, reader_of
from mllm_eval.errors import UserError
from mllm_eval.generate import runner
from mllm_eval.run import Run
from mllm_eval.storage import read_jsonl


def said() -> dict[str, str]:
    return {one.id: one.text for one in read_answers(the_run().answers_path("own"))}


def files() -> dict[str, bytes]:
    paths = [*the_run().folder.glob("scores/*"), *the_run().folder.glob("answers/*")]
    return {path.name: path.read_bytes() for path in paths}


def no_asking(patch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something is asked")

    patch.setattr(runner, "Backoff", refuse)


@pytest.mark.slow
def test_changed_golds_are_scored_and_not_asked_again(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = said()
    assert summary()["value"] == 0.0
    no_asking(monkeypatch)
    write(own_home, [{**row, "answer": before[str(n)].strip() if n < 6 else "red"} for n, row in enumerate(ROWS)])
    evaluate()
    right = sum(bool(before[str(n)].strip()) for n in range(6))
    assert summary()["value"] == pytest.approx(100 * right / 12) and right
    assert said() == before


@pytest.mark.slow
def test_rows_that_go_and_move_keep_their_answers(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = said()
    no_asking(monkeypatch)
    write(own_home, [ROWS[n] for n in (0, 2, 3, 7)])
    evaluate()
    assert said() == {"0": before["0"], "1": before["2"], "2": before["3"], "3": before["7"]}
    assert summary()["n"] == 4 == len(read_jsonl(the_run().scores_path("own", "cambrian")))
    write(own_home, [ROWS[n] for n in (0, 2)])
    evaluate()
    assert list(said()) == ["0", "1"] and summary()["n"] == 2


@pytest.mark.slow
def test_a_changed_question_or_image_is_asked_again_and_no_other(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = watched(monkeypatch)
    write(own_home, [{**row, "question": "Else?"} if n == 3 else row for n, row in enumerate(ROWS)])
    evaluate()
    assert asked == ["3"]
    Image.new("RGB", (28, 28), (1, 2, 3)).save(own_home / "data/mine/images/5.png")
    evaluate()
    assert asked == ["3", "5", "11"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], r"questions\.csv: no rows to ask"),
        ([*ROWS[:2], {**ROWS[2], "answer": " "}], r"questions\.csv row 3: column 'answer' is empty"),
    ],
)
def test_no_rows_and_no_gold_are_refused(own_home: Path, rows: list[dict[str, str]], message: str) -> None:
    before = files()
    write(own_home, rows)
    with pytest.raises(UserError, match=message):
        evaluate()
    assert files() == before


@pytest.mark.slow
def test_a_changed_scorer_is_scored_again(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_asking(monkeypatch)
    write(own_home, scorer=SCORER.replace('float(prediction.strip() == record["answer"])', "1.0"))
    evaluate()
    assert summary()["value"] == 100.0
    # Of the same length, within the same second: Python's own file of compiled code would be the old one.
    write(own_home, scorer=SCORER.replace('float(prediction.strip() == record["answer"])', "0.5"))
    evaluate()
    assert summary()["value"] == 50.0


def test_nothing_to_do_reads_no_rows(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("rows are read")

    with monkeypatch.context() as patch:
        patch.setattr("mllm_eval.data.snapshots.read_samples", refuse)
        evaluate()
        os.utime(own_home / "data/mine/images/0.png")
        with pytest.raises(AssertionError, match="rows are read"):
            evaluate()
    no_asking(monkeypatch)
    evaluate()
    assert files() == before


@pytest.mark.slow
def test_an_evaluation_reads_the_rows_of_each_benchmark_once(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = ["own", "own_2", "own_3", "own_4"]
    for name in mine[1:]:
        folder = own_home / "benchmarks" / name
        folder.mkdir()
        (folder / "benchmark.yaml").write_text(YAML.replace("name: own", f"name: {name}"))
        (folder / f"{name}.py").write_text(SCORER)
    read: list[str] = []
    plain = snapshots.read_samples

    def counted(benchmark: Benchmark, *rest: Any) -> Any:
        read.append(benchmark.name)
        return plain(benchmark, *rest)

    monkeypatch.setattr(snapshots, "read_samples", counted)
    snapshots.recent.clear()
    shutil.rmtree(the_run().folder / "answers")
    pipeline.evaluate("tiny-dinov2", "own", benchmarks=mine, blind=True)
    assert sorted(read) == mine
    # Afterwards few are kept, so that memory does not grow with all that was ever evaluated.
    for name in mine:
        assert len(load_samples(load_benchmark(name), "mine")) == len(ROWS)
    assert len(read) > len(mine)


def test_files_of_this_very_moment_are_not_believed(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = load_benchmark("own")
    assert content.state_of(benchmark, "mine") is not None
    monkeypatch.setattr(content, "SETTLED", 10**15)
    assert content.state_of(benchmark, "mine") is None
    monkeypatch.setattr(content, "SETTLED", 0)
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    assert content.state_of(benchmark, "mine") is None


@pytest.mark.slow
def test_the_report_shows_no_new_gold_beside_an_old_score(own_home: Path) -> None:
    out = own_home / "site"
    assert command("report", "--out", str(out)).exit_code == 0
    assert "have changed since" not in (out / "index.html").read_text()
    write(own_home, [{**row, "answer": "purple"} if n == 4 else row for n, row in enumerate(ROWS)])
    assert command("report", "--out", str(out)).exit_code == 0
    assert "1 of its 12 rows have changed since tiny-dinov2 was scored" in (out / "index.html").read_text()
    assert not any("purple" in path.read_text() for path in (out / "data").iterdir())


FAULTS = [
    ('record["answer"]', 'record["anwser"]', r"own\.py:5: own: rule 'cambrian' on sample '0' fails \(Key"),
    ("    return float(", "    1 / 0\n    return float(", r"own\.py:5: .* \(ZeroDivisionError: division by zero\)"),
    (', prediction.strip() or None, ""', "", r"own\.py:4: own: rule 'cambrian' on sample '0' gives [01]\.0;"),
    ("float(prediction", "2.0 + float(prediction", r"gives the score [23]\.0; expected \(score from 0 to 1"),
    ("float(prediction", "float('nan') + float(prediction", r"gives the score nan"),
    ('prediction.strip() or None, ""', 'prediction.strip() or None, None', r"gives None as its note"),
    ("def exact", "def exact(:\n\ndef other", r"own\.py:4: .*can't import 'own' \(SyntaxError: "),
    ("def exact", "undefined\n\ndef exact", r"own\.py:4: .* \(NameError: name 'undefined' is not defined\)"),
    ("def exact", "import no_such_module\n\ndef exact", r"own\.py:4: .* \(ModuleNotFoundError: "),
    ('{"cambrian": exact}', '{"cambrain": exact}', r"RULES has no 'cambrian', .*Did you mean 'cambrain'\?"),
    ('{"cambrian": exact}', '{"cambrian": 1.0}', r"RULES\['cambrian'\] is float, expected a function"),
    ('"accuracy": 100', '"acuracy": 100', r"has no 'accuracy', .*`metric: accuracy`.*Did you mean 'acuracy'\?"),
    ("for _, score in rows)", 'for row, score in rows if row["x"])', r"own\.py:9: own: `report` .* \(KeyError: 'x'\)"),
    ('"accuracy": 100', '"x": float("nan"), "accuracy": 100', r"own\.py:8: own: `report` gives what is no JSON"),
    ('{"answer": "string"}', '{"answr": "string"}', r"has no field 'answr' \(string\)\. Did you mean 'answer'\?"),
    ('{"answer": "string"}', '{"answer": "str"}', r"NEEDS has 'answer' as 'str'\. Did you mean 'string'\?"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("old", "new", "message"), FAULTS)
def test_a_scorer_that_fails_is_a_fault_and_no_score(own_home: Path, old: str, new: str, message: str) -> None:
    before = files()
    assert old in SCORER
    write(own_home, scorer=SCORER.replace(old, new))
    commands = [("eval", "tiny-dinov2", "--recipe", "own", "--benchmarks", "own"), ("score",)]
    # What a record lacks that no rule reads shows when the scorer is tried, and nowhere else.
    for arguments in commands[:1] if "answr" in new else commands:
        found = command(*arguments)
        assert (found.exit_code, found.output.count("\n")) == (2, 1)
        assert re.search(message, found.output), found.output
    assert files() == before


def test_a_rule_set_that_fails_late_leaves_the_others_as_they_were(own_home: Path) -> None:
    late = "def late(record, prediction):\n    return 1.0, '', 0\n\n\n"
    late = SCORER.replace("def report", late + "def report").replace("exact}", 'exact, "robust": late}')
    before = files()
    write(own_home, scorer=late, facts=YAML + "  robust: {version: 1}\n")
    with pytest.raises(UserError, match="rule 'robust' on sample '0' gives 0 as its note"):
        pipeline.score_run(the_run())
    assert files() == before


def test_a_scorer_is_tried_before_anything_is_trained(own_home: Path) -> None:
    write(own_home, scorer=SCORER.replace('record["answer"]', 'record["anwser"]'))
    with pytest.raises(UserError, match="'anwser'"):
        pipeline.evaluate("tiny-dinov2", "own", seed=77, benchmarks=["own"])
    assert not (Run.of("tiny-dinov2", "own", seed=77).folder / "stage1").exists()


def load(home: Path, table: str, facts: str = YAML) -> Any:
    (home / "data/mine/questions.csv").write_text(table)
    (home / "benchmarks/own/benchmark.yaml").write_text(facts)
    return load_samples(load_benchmark("own"), "mine")


COLUMNS = "image: string, question: string, answer: string"


def with_settings(settings: str, columns: str = COLUMNS, reader: str = "question") -> str:
    facts = YAML.replace("settings: {suffix: Answer in a word.}", f"settings: {settings}")
    facts = facts.replace(COLUMNS, columns)
    return facts.replace("readers:question", f"readers:{reader}")


HEAD = "image,question,answer\n"


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without weights or runs."""
    (tmp_path / "benchmarks/own").mkdir(parents=True)
    (tmp_path / "data/mine/images").mkdir(parents=True)
    (tmp_path / "benchmarks/own/own.py").write_text(SCORER)
    Image.new("RGB", (4, 4)).save(tmp_path / "data/mine/images/0.png")
    set_home(monkeypatch, tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{sufix: x}", r"benchmark\.yaml:9: settings: unknown key 'sufix'\. Did you mean 'suffix'\?"),
        (
            "{question: qestion}",
            r"benchmark\.yaml:9: settings: question: .* no column 'qestion'\. Did you mean 'question'",
        ),
        ("{id: imag}", r"no column 'imag'\. Did you mean 'image'\? It has: image, question, answer"),
        ("{answer: gold}", r"settings: answer: the data set has no column 'gold'"),
        ("{group: pair}", "no column 'pair'"),
        ("{stratum: kind}", "no column 'kind'"),
        ("{image: picture}", "no column 'picture'.*`image: null`"),
        ("{suffix: 3}", "suffix: Input should be a valid string"),
        ("{options: answer}", "unknown key 'options'"),
    ],
)
def test_settings_of_a_reader_are_held_to_it_and_to_the_data(bare: Path, settings: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(bare, HEAD + "0.png,Q?,red\n", with_settings(settings))


def test_a_variants_settings_are_held_to_the_reader_too(bare: Path) -> None:
    facts = YAML + "variants: {other: {settings: {sufix: x}}}\n"
    load(bare, HEAD + "0.png,Q?,red\n", facts)
    with pytest.raises(UserError, match="unknown key 'sufix'"):
        load_samples(load_benchmark("own"), "mine", VariantKey("other"))


@pytest.mark.parametrize(
    ("kind", "cell", "value"),
    [
        ("int64", "7", 7),
        ("float64", "0.5", 0.5),
        ("bool", "True", True),
        ("list<string>", '"[""red"", ""blue""]"', ["red", "blue"]),
        ("list<list<float64>>", '"[[1, 2.5]]"', [[1.0, 2.5]]),
        ("int64", "7.5", r"row 1: column 'more' is '7\.5', expected int64"),
        ("float64", "much", "expected float64"),
        ("bool", "yes", "expected bool"),
        ("list<string>", "A. [ B.", "expected list<string>, written as JSON"),
        ("list<string>", "[1]", "expected list<string>"),
        ("list<string>", "[" * 9999, "expected list<string>"),
        ("strng", "x", "declared as strng, which a csv can't have. Did you mean 'string'?"),
    ],
)
def test_cells_are_held_against_their_columns_type(bare: Path, kind: str, cell: str, value: Any) -> None:
    columns = f"image: string, question: string, answer: string, more: {kind}"
    table = f"image,question,answer,more\n0.png,Q?,red,{cell}\n"
    if isinstance(value, str):
        with pytest.raises(UserError, match=value.replace("?", r"\?")):
            load(bare, table, with_settings("{}", columns))
    else:
        assert load(bare, table, with_settings("{}", columns))[0].record["more"] == value


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (HEAD, "no rows to ask"),
        ("", "no rows to ask"),
        (HEAD + "0.png,What, then?,red\n", "row 1: 4 cells under 3 columns; a comma inside a text"),
        (HEAD + "0.png,Q?\n", "row 1: 2 cells under 3 columns"),
        (HEAD + '0.png,"Q?,red\n', r"not a csv file"),
        ("image,question,question\n0.png,Q?,red\n", "column 'question' is there 2 times"),
    ],
)
def test_tables_that_are_none_are_refused(bare: Path, table: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(bare, table)


def test_a_template_of_images_is_held_against_the_columns(bare: Path) -> None:
    for template, message in (("{imag}", "'imag', which is missing. Did you mean 'image'"), ("{image", "filled in")):
        with pytest.raises(UserError, match=message):
            load(bare, HEAD + "0.png,Q?,red\n", YAML.replace("images/{image}", f"images/{template}"))


OPTIONS = "image: string, question: string, answer: string, A: string, B: string, C: string, D: string"


def test_options_in_columns_of_their_own_have_a_reader(bare: Path) -> None:
    facts = with_settings("{suffix: Which?}", OPTIONS, "choice_columns")
    table = "image,question,answer,A,B,C,D\n0.png,Q?,C,red,,blue,nan\n"
    assert load(bare, table, facts)[0].prompt == "Q?\nA. red\nC. blue\nWhich?"
    with pytest.raises(UserError, match="row 1: 1 options in columns A, B, C, D, expected two"):
        load(bare, "image,question,answer,A,B,C,D\n0.png,Q?,A,red,,,\n", facts)
    with pytest.raises(UserError, match=r"options: the data set has no column 'C'"):
        load(bare, "image,question,answer,A,B\n0.png,Q?,A,red,blue\n", facts.replace(", C: string, D: string", ""))


def test_a_text_is_no_list_of_options(bare: Path) -> None:
    with pytest.raises(UserError, match=r"row 1: column 'answer' is 'red', expected a list of texts"):
        load(bare, HEAD + "0.png,Q?,red\n", with_settings("{options: answer}", reader="choices"))


def test_pairs_of_yes_and_no_have_a_reader(bare: Path) -> None:
    facts = with_settings("{group: image}", reader="yes_no")
    shutil.copy(bare / "data/mine/images/0.png", bare / "data/mine/images/1.png")
    one, two, other = load(bare, HEAD + "0.png,Is it?,Yes\n0.png,Is it not?,no\n1.png,Is it?,no\n", facts)
    assert (one.target, two.target) == ("yes", "no") and one.group == two.group == "0.png" != other.group
    with pytest.raises(UserError, match="row 1: column 'answer' is 'maybe', expected yes or no"):
        load(bare, HEAD + "0.png,Is it?,maybe\n", facts)
    with pytest.raises(UserError, match="key 'group' is missing"):
        load(bare, HEAD + "0.png,Is it?,yes\n", with_settings("{}", reader="yes_no"))


def test_a_benchmark_may_have_no_images(bare: Path) -> None:
    facts = with_settings("{image: null}", "question: string, answer: string")
    facts = facts.replace(', image_files: "images/{image}"', "")
    assert load(bare, "question,answer\nQ?,red\n", facts)[0].images == ()


def test_every_shipped_reader_declares_its_settings() -> None:
    for name in names("benchmarks"):
        assert hasattr(reader_of(load_benchmark(name)), "settings"), name


UNKNOWN = [
    ("eval", "tiny-dinov2", "--recipe", "own", "--benchmarks", "own", "--seed", "9", "--rules", "cambrain"),
    (
        "compare",
        "tiny-dinov2,mini-dino",
        "--recipe",
        "own",
        "--benchmarks",
        "own",
        "--seed",
        "9",
        "--rules",
        "cambrain",
    ),
    ("table", "--rules", "cambrain"),
    ("table", "--runs", "tiny-dinov2", "--rules", "cambrain"),
    ("table", "--details", "--rules", "cambrain"),
    ("table", "scaling", "--rules", "cambrain"),
    ("report", "--rules", "cambrain"),
    ("report", "--runs", "tiny-dinov2", "--rules", "cambrain"),
    ("show", "tiny-dinov2", "--rules", "cambrain"),
    ("diff", "tiny-dinov2", "tiny-dinov2", "--rules", "cambrain"),
    ("stats", "subset", "--rules", "cambrain"),
]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", UNKNOWN, ids=lambda words: " ".join(words[:2]))
def test_unknown_rules_are_refused_before_anything_is_done(own_home: Path, arguments: tuple[str, ...]) -> None:
    before = {path for path in own_home.rglob("*") if path.name != ".lock"}
    found = command(*arguments)
    assert found.exit_code == 2 and found.output.count("\n") == 1
    assert "rules 'cambrain'. Did you mean 'cambrian'? Known: cambrian" in found.output
    assert {path for path in own_home.rglob("*") if path.name != ".lock"} == before


@pytest.mark.slow
def test_the_engine_is_checked_on_a_benchmark_of_ones_own(own_home: Path) -> None:
    done = command("check", the_run().hash, "--determinism", "--samples", "4")
    assert done.exit_code == 0 and "4 of 4 questions in 1 lists have the plain loop's tokens" in done.output
    the_run().answers_path("own").unlink()
    done = command("check", the_run().hash, "--determinism")
    assert done.exit_code == 2 and "none of the table's benchmarks has data 'mine'" in done.output


def test_an_unknown_baseline_is_refused_before_anything_is_done(own_home: Path) -> None:
    words = ("compare", "tiny-dinov2,mini-dino", "--recipe", "own", "--seed", "9", "--baseline")
    assert "no row 'mini-dion' to compare with. Did you mean 'mini-dino'?" in command(*words, "mini-dion").output
    assert not Run.of("tiny-dinov2", "own", seed=9).folder.exists()


@pytest.mark.slow
def test_a_report_that_can_not_be_made_leaves_the_one_that_is_there(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = own_home / "site"

    def site() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in out.rglob("*") if path.is_file()}

    assert command("report", "--out", str(out)).exit_code == 0
    before = site()
    assert command("report", "--out", str(out), "--rules", "strict").exit_code == 2
    scores = the_run().scores_path("own", "cambrian")
    text = scores.read_text()
    scores.write_text(text[:-20])
    assert command("report", "--out", str(out)).exit_code == 2
    scores.write_text(text)
    assert site() == before
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(own_home / "nothing"))
    found = command("report", "--out", str(out))
    assert found.exit_code == 2 and "no scored run to show in place of the report that is there" in found.output
    assert site() == before and not (out / ".new").exists()
    assert command("report", "--out", str(own_home / "published")).exit_code == 0


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    return None", r"questions\.csv row 1: its reader gives NoneType, expected a Reading"),
        ("    1 / 0", r"row 1: can't be read \(ZeroDivisionError: division by zero at .*rows\.py:5\)"),
        ("    undefined", r"row 1: can't be read \(NameError: .* at .*rows\.py:5\)"),
        (
            "    return Reading('1', (('imag', 0),), 'Q?', 'red')",
            r"names the image column 'imag'\. Did you mean 'image'",
        ),
    ],
)
def test_a_reader_of_ones_own_that_fails_names_the_row(bare: Path, body: str, message: str) -> None:
    code = f"from mllm_eval.data.readers import Reading\n\n\ndef read(record, settings):\n{body}\n"
    (bare / "benchmarks/own/rows.py").write_text(code)
    with pytest.raises(UserError, match=message):
        load(bare, HEAD + "0.png,Q?,red\n", YAML.replace("mllm_eval.data.readers:question", "rows:read"))
