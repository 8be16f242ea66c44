"""What models, data and files say is text on every surface that shows it."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import site_runs
from typer.testing import CliRunner

from mllm_eval import escaping
from mllm_eval.catalog.level import Level, Published
from mllm_eval.cli import guard
from mllm_eval.cli.app import app
from mllm_eval.console import console, say
from mllm_eval.data import snapshots
from mllm_eval.errors import UserError
from mllm_eval.filtering import page as filtering_page
from mllm_eval.filtering.corpusrun import Filtered, Spent
from mllm_eval.filtering.tally import NearThreshold, Tally
from mllm_eval.html import Html, joined
from mllm_eval.leaks.findings import Findings, Found, Overlap, Overlapping, Settings
from mllm_eval.pipeline.progressbar import Bars, Lines
from mllm_eval.report.render import FORMATS, render
from mllm_eval.report.site import figures, markup
from mllm_eval.report.site.build import write_report
from mllm_eval.report.site.leakspage import Leaks, leaks_page
from mllm_eval.report.table import Cell, Column, Row, Table
from mllm_eval.results import record_of
from mllm_eval.score.frames import ScoredPredictions
from mllm_eval.score.scoring import Summary
from mllm_eval.storage import write_atomic

HOSTILE = {
    "html": "<script>window.hacked=1</script><img src=x onerror='window.hacked=2'>\"'&</td>",
    "entity": "&lt;script&gt;&#x3c;b&#x3e;",
    "latex": r"\input{/etc/hostname} $x$ % _ ^ ~ # & { } \write18{ls}",
    "markdown": "[click](javascript:alert(1)) ![x](http://a.org/x.png) **b** | `c` <b>",
    "formula": '=HYPERLINK("http://a.org","x")',
    "plus": "+1+cmd|' /C calc'!A0",
    "at": "@SUM(1+1)",
    "terminal": "\x1b[2J\x1b]0;title\x07\x9b31m\x08\x7f",
    "direction": "\u202egnp.exe\u2066\u200f",
    "rich": "[bold red]x[/bold red] [/b] [link=http://a.org]y[/link] :smile:",
    "surrogate": "half \ud800 pair",
    "lines": "one\ntwo\r\nthree\u2028four\x0bfive",
    "tags": "hidden\U000e0041\U000e0042",
}
SEEN = {"html", "tex", "md", "csv", "terminal"}
COMMANDS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\U000e0000-\U000e007f]"
)


@pytest.fixture(params=HOSTILE, name="text")
def _text(request: Any) -> str:
    return HOSTILE[request.param]


def shown(text: str) -> Table:
    """A table that says a text wherever a table can say one."""
    column = Column("x", text, group=text, text=True)
    cell = Cell(text, delta="", marks="", interval="")
    rows = (Row(text, "measured", {"x": cell}, text, notes=(text,), facts={"run": text, "encoder": text}),)
    return Table("hostile", text, (column,), rows, (text,), (text,))


class Tags(HTMLParser):
    """The elements and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(str(page))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_every_format_of_a_table_is_held() -> None:
    assert set(FORMATS) == SEEN


def test_latex_has_no_command_and_no_comment_of_a_text(text: str) -> None:
    made = render(shown(text), "tex")
    assert not COMMANDS.search(made)
    inner = escaping.latex(text)
    for command in re.findall(r"\\([a-zA-Z]+|.)", inner):
        assert command in {"textbackslash", "textasciicircum", "textasciitilde", "textless", "textgreater", "textbar",
                           "textasciigrave", "{", "}", "$", "&", "#", "%", "_"}, command  # fmt: skip
    assert not re.search(r"(?<!\\)[%#&_$^~]", inner) and "\n" not in inner


def test_markdown_has_no_html_no_link_and_no_cell_of_a_text(text: str) -> None:
    made, plain = render(shown(text), "md"), render(shown("x"), "md")
    assert not COMMANDS.search(made)
    assert len(made.splitlines()) == len(plain.splitlines())
    row = next(line for line in made.splitlines() if line.startswith("| ") and "measured" not in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
    inner = escaping.markdown(text)
    assert not re.search(r"(?<!\\)[\[\]<>`*_|~]|(?<!\\)&#?\w+;", inner)


def test_a_spreadsheet_computes_nothing_of_a_csv(text: str) -> None:
    rows = list(csv.reader(io.StringIO(render(shown(text), "csv"))))
    assert len(rows) == 2 and len(rows[0]) == len(rows[1])
    for cell in [*rows[0], *rows[1]]:
        assert not re.match(r"[=+\-@\t\r\n]", cell) and not COMMANDS.search(cell)


def test_numbers_of_a_csv_stay_numbers() -> None:
    for number in ("-0.5", "+1.2", "3", "-1e-5", ".5", "-12.5%"):
        assert escaping.cell(number) == number
    assert escaping.cell("-x") == "'-x" and escaping.cell("plain = text") == "plain = text"


@pytest.mark.parametrize("coloured", [False, True])
def test_a_terminal_is_told_nothing_by_a_text(text: str, coloured: bool, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table as RichTable

    sgr = re.compile(r"\x1b\[[0-9;]*m")
    made = FORMATS["terminal"](shown(text))
    out = io.StringIO()
    printed = console(file=out, force_terminal=coloured, width=400)
    sheet = RichTable(title=text)
    sheet.add_column(text)
    sheet.add_row(text)
    printed.print(text)
    printed.print(text, sheet)
    say(text, json.dumps({"a": text.encode("utf-8", "replace").decode()}, ensure_ascii=False))
    Lines().say(text)
    with Bars().step(text):
        pass
    error = str(UserError(f"{text}.yaml:1: {text!r} {text}"))
    assert "\n" not in error
    said = capsys.readouterr()
    for one in (made, sgr.sub("", out.getvalue()), said.out, said.err, error):
        assert not COMMANDS.search(one)


def test_a_text_in_brackets_is_printed_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    console(file=out, width=200).print(HOSTILE["rich"])
    assert out.getvalue() == HOSTILE["rich"] + "\n"


def test_json_on_a_terminal_is_still_json(capsys: pytest.CaptureFixture[str]) -> None:
    text = HOSTILE["terminal"] + HOSTILE["direction"] + HOSTILE["tags"]
    say(json.dumps(text, ensure_ascii=False))
    assert json.loads(capsys.readouterr().out) == text


@pytest.mark.slow
def test_a_message_of_an_error_is_one_line_of_letters(text: str, tmp_path: Path) -> None:
    name = text.replace("/", "_").replace("\0", "").encode("utf-8", "ignore").decode()[:60]
    done = CliRunner().invoke(app, ["eval", name])
    assert done.exit_code == 2 and done.stderr.count("\n") == 1 and not COMMANDS.search(done.stderr)
    assert guard is not None


def table_page(text: str, home: Path) -> str:
    return render(shown(text), "html")


def notebook(text: str, home: Path) -> str:
    return shown(text)._repr_html_()


def scored_in_memory(text: str, home: Path) -> str:
    summary = Summary(text, text, 1, 0, 0, 1.0, {}, text, text, 50.0)
    whole = text.encode("utf-8", "replace").decode()
    frame = pd.DataFrame({"id": ["1"], "prediction": [whole], "score": [1.0], "parsed": [whole], "note": [whole]})
    return ScoredPredictions(summary, frame)._repr_html_()


def pieces(text: str, home: Path) -> str:
    parts = [
        markup.sheet("b", text, [(text, False)], [[text], [text]], text),
        markup.listed([text]),
        markup.facts([(text, text)]),
        markup.headline(text, text, markup.note(text)),
        markup.opened(text, markup.note(text)),
    ]
    body = markup.section("a", text, joined(*parts), text)
    return markup.page(text, "index.html", body, [("index.html", text)], [("a", text)])


def filters_page(text: str, home: Path) -> str:
    """The report of a filtered corpus whose shard, picture, model, question, words and faults are all named so."""
    tally = Tally()
    tally.decide(NearThreshold(0.7, text, text), 0.9, True, 10, True)
    tally.decide(NearThreshold(0.2, text, text), 0.1, False, 10, False)
    for kind in (text, "image"):
        for _ in range(30):
            tally.fault(kind, text)
    config = {"model": text, "question": text, "threshold": 0.5, "label": text}
    made = Filtered(home, config, {"yes": [text], "no": [text]}, tally, 1, Spent())
    level = Level.model_construct(name=text, question=text, published=Published.model_construct(share=0.5, source=text))
    image = "data:image/jpeg;base64,AAAA"
    return filtering_page.page(made, level, None, {NearThreshold(0.7, text, text): image})


def leaks_page_of(text: str, home: Path) -> str:
    """The site's page of leaks whose corpus, pictures, samples, views, questions and faults are all named so."""
    folder = home / "leaks" / "found" / "mini"
    found = Found(
        benchmark="gqa", data=text, corpus=text, of="x", images=9, broken_images=1, broken_images_first=(text,),
        settings=Settings(hash="h", views=3, radius=1, encoder=text, weights="w", alarm=0.1, most=9), broken_rows=1,
        broken_rows_first=(text,), samples=9, pictures=9, broken_pictures=1, broken_pictures_first=(text,),
        candidates=1, looked_at=1, different=9, threshold=0.9, alarm=0.1, pairs=70, leaked_pictures=1, asked=9,
        standing=40, leaked={"pictures": 1, "questions": 1, "both": 0, "either": 2},
    )  # fmt: skip
    pair = {"samples": [text], "n_samples": 2, "view": text, "distance": 3, "similarity": 0.9, "image": text,
            "picture_thumb": text, "image_thumb": "there.webp"}  # fmt: skip
    write_atomic(folder / "gqa.pairs.jsonl", json.dumps(pair) + "\n")
    write_atomic(folder / "gqa.questions.jsonl", json.dumps({"question": text, "rows": 1, "n_samples": 1}) + "\n")
    write_atomic(folder / "thumbs" / "there.webp", b"RIFF")
    evidence: Any = SimpleNamespace(seeing=(), rules="cambrian")
    findings = Findings(folder, {"gqa": found})
    overlap = Overlap(
        recipe=text, against=text, of="x", settings=found.settings, images=9, broken_images=1, others=9,
        broken_images_first=(text,), broken_rows=1, broken_rows_first=(text,), broken_others=1,
        broken_others_first=(text,), candidates=1, looked_at=1, different=9, threshold=0.9, alarm=0.1, pairs=70,
        copied=1,
    )  # fmt: skip
    shared = {"image": text, "other": text, "distance": 3, "similarity": 0.9, "picture_thumb": text}
    write_atomic(folder / "pairs.jsonl", json.dumps(shared) + "\n")
    leaks = Leaks({"x": findings}, [findings], [Overlapping(folder, overlap)])
    return leaks_page(evidence, leaks, home / "site")


def figure(text: str, home: Path) -> str:
    return figures.inline_figure("f", lambda: drawing(text), text, text)


def drawing(text: str) -> Any:
    """A drawing with its texts at every place that has one."""
    made = figures.new_figure(30, 30)
    axes, beside = made.subplots(1, 2)
    axes.plot([1, 2], [1, 2], label=text)
    axes.set_yticks([1, 2], [text, "b"])
    axes.set_title(text, loc="left")
    axes.set_xlabel(text)
    axes.annotate(text, (1, 1))
    axes.legend()
    made.colorbar(axes.scatter([1, 2], [1, 2], c=[1, 2]), ax=axes, label=text)
    beside.set_xscale("log")
    made.supxlabel(text)
    return made


HTML: dict[str, Callable[[str, Path], str]] = {
    "a table's page": table_page, "a notebook's table": notebook, "a notebook's scores": scored_in_memory,
    "the site's pieces": pieces, "filter's page": filters_page, "leaks' page": leaks_page_of, "a figure": figure,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("surface", HTML)
def test_html_has_the_elements_that_it_has_without_the_text(
    surface: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is drawn of numbers alone takes a second a page.
    monkeypatch.setattr(filtering_page, "inline_figure", lambda name, draw, alt, caption: markup.note(caption))
    made, without = HTML[surface](text, tmp_path), HTML[surface]("x", tmp_path)
    page, plain = Tags(made), Tags(without)
    assert type(made) is Html or surface == "a table's page"
    assert page.tags == plain.tags and page.attributes == plain.attributes
    assert not COMMANDS.search(made)
    said = escaping.lines(text).splitlines()[0]
    assert " ".join(said.split()) in " ".join(page.text.split())


@pytest.mark.slow
def test_texts_of_a_figure_are_texts_in_every_format(tmp_path: Path) -> None:
    text = "\n".join((*HOSTILE.values(), r"$\frac{", "$$"))
    with figures.style("f"):
        for form in ("svg", "png", "pdf"):
            figures.save(drawing(text), tmp_path / f"f.{form}")
    drawn = (tmp_path / "f.svg").read_text()
    assert escaping.html(r"$\frac{") in drawn and not COMMANDS.search(drawn) and "<script" not in drawn
    assert (tmp_path / "f.png").stat().st_size and (tmp_path / "f.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_every_page_of_the_site_has_its_policy_and_no_script_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path))
    run = site_runs.answered("one", 0.6, ["gqa"], 12)
    write_report([record_of(run)], tmp_path / "site", images=False)
    pages = sorted((tmp_path / "site").glob("*.html"))
    assert pages
    for page in pages:
        text = page.read_text(encoding="utf-8")
        policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
        assert policy is not None
        parts = {part.split()[0]: part.split()[1:] for part in policy[1].split("; ")}
        assert parts["default-src"] == ["'none'"] and set(parts["script-src"]) == {"'self'", "file:"}
        assert set(parts["img-src"]) <= {"'self'", "file:", "data:"} and "connect-src" not in parts
        assert not re.search(r"<script(?![^>]*\bsrc=)", text) and not re.search(r"\son\w+=", text)
        assert text.index("Content-Security-Policy") < text.index("<script")


@pytest.mark.slow
def test_the_site_of_a_hostile_name_has_the_elements_of_that_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path))
    monkeypatch.setattr(snapshots, "load_samples", lambda one, *_: site_runs.samples(one.name, 12))
    record = record_of(site_runs.answered("one", 0.6, ["gqa"], 12))
    pages = []
    for name in ("x", " ".join(HOSTILE.values())):
        named = replace(record, encoder=name, llm=name, recipe=name, views={})
        named.manifest["sessions"] = [{"host": name, name: name}, {"host": "y"}]
        write_report([named], tmp_path / "site", images=False, unreadable=[name])
        pages.append({path.name: path.read_text() for path in sorted((tmp_path / "site").glob("*.html"))})
    plain, made = pages
    assert set(made) == set(plain)
    for file, page in made.items():
        found, expected = Tags(page), Tags(plain[file])
        assert (found.tags, found.attributes) == (expected.tags, expected.attributes), file
        assert not COMMANDS.search(page), file
    assert sum("window.hacked=1" in Tags(page).text for page in made.values()) >= 3
