"""The report site: what it holds, that it is safe and small, and that it works in a browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import made_runs
import pytest
import site_runs
from site_runs import EVIL

from mllm_eval.answers import Answer
from mllm_eval.catalog.variant import DEFAULT
from mllm_eval.data import snapshots
from mllm_eval.errors import UserError
from mllm_eval.report.site import build, write_report
from mllm_eval.report.site.datafiles import packed, unpacked, write_data
from mllm_eval.report.site.samplepages import sample_lines, score_code
from mllm_eval.results import read_run

# What the tests share takes long to make.
pytestmark = pytest.mark.slow


BENCHMARKS = ["gqa", "seed", "textvqa"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs and one without images, on three benchmarks of 300 questions each."""
    home = tmp_path_factory.mktemp("site")

    def load(benchmark: Any, pin: str, variant: object = DEFAULT) -> list[Any]:
        return site_runs.samples(benchmark.name, 300)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLLM_EVAL_RESULTS", str(home / "results"))
        patch.setattr(snapshots, "load_samples", load)
        one = site_runs.answered("mini-dino", 0.4, BENCHMARKS, 300)
        two = site_runs.answered("mini-clip", 0.7, BENCHMARKS, 300)
        site_runs.answered("mini-dino", 0.2, BENCHMARKS, 300, variant="blind")
        return write_report([read_run(one.folder), read_run(two.folder)], home / "report")


class _Page(HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_every_page_is_well_formed_and_fetches_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.glob("*.html"))
    assert len(pages) == 5
    for path in pages:
        page = _Page(path)
        assert page.open == []
        ids = [about["id"] for _, about in page.tags if "id" in about]
        assert len(ids) == len(set(ids)), path
        for tag, about in page.tags:
            for key in ("src", "href", "xlink:href", "action"):
                link = about.get(key) or ""
                assert not re.match(r"[a-z]+:|//", link) or link == "data:,", (path.name, tag, link)
                if link and not link.startswith(("#", "data:")):
                    assert (site / link.partition("#")[0]).is_file(), (path.name, link)
            assert tag != "script" or about.get("src")
            assert not [key for key in about if key.startswith("on")]
    text = "".join(path.read_text() for path in (site / "assets").iterdir())
    assert "innerHTML" not in text and "http" not in re.sub(r"http://www\.w3\.org/\d+/\w+", "", text)


def test_the_site_is_small_and_images_go_by_content(site: Path) -> None:
    assert site_runs.size_without_images(site) < 1_000_000
    assert len(list((site / "thumbs").rglob("*.webp"))) == 40


def test_data_files_give_back_what_was_asked_and_answered(site: Path) -> None:
    page = unpacked(site / "data" / "b00-000.js")
    assert page["ids"][:2] == ["0000", "0001"] and len(page["ids"]) == 250
    assert page["questions"][0].startswith(EVIL) and "Answer with one word" not in page["questions"][0]
    compare = unpacked(site / "data" / "compare.js")
    assert [run["label"] for run in compare["runs"]] == ["mini-dino", "mini-clip", "mini-dino (blind)"]
    assert compare["benchmarks"][0]["suffix"] == "Answer with one word." and compare["benchmarks"][0]["pages"] == 2
    first, blind = compare["runs"][0]["key"], compare["runs"][2]["key"]
    assert page["answers"][first][0] == EVIL and page["answers"][first][5] == {"failed": EVIL}
    assert page["scores"][first]["cambrian"][6] == [0.0, None, EVIL] and page["scores"][first]["cambrian"][5][0] is None
    index = unpacked(site / "data" / "b00.js")["codes"][first]["cambrian"]
    assert len(index) == 300 and index[5] == "-" and index[6] == "a" and set(index) <= set("AKa-")
    assert f"{first}|{blind}" in compare["pairs"]
    other = compare["runs"][1]["key"]
    said = compare["said"][f"{first}|{other}"]
    assert said.startswith("mini-clip beats mini-dino on ") and "(no blind rows: " in said
    assert compare["said"][f"{first}|{blind}"].startswith("Seeing the images gives mini-dino ")


def test_the_compare_page_speaks_of_sight(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is as much higher without the images does not win on this page either."""
    monkeypatch.setattr(snapshots, "load_samples", lambda *_: site_runs.samples("gqa", 300))
    for name, share in (("mini-dino", 0.2), ("mini-clip", 0.7)):
        for variant in ("default", "blind"):
            site_runs.answered(name, share, ["gqa"], 300, variant=variant)
    records = [read_run(folder) for folder in sorted((home / "results" / "runs").iterdir())]
    compare = unpacked(write_report(records, home / "report") / "data" / "compare.js")
    (key,) = [key for key in compare["pairs"] if "blind" not in key]
    (row,) = compare["pairs"][key]
    assert "not by sight: without the image the two differ as well" in compare["said"][key]
    gain, low, high, p = row[9:]
    assert low < gain < high and abs(gain) < abs(row[1]) / 2 and p > 0.01


def test_text_of_models_stands_on_no_page(site: Path) -> None:
    for path in (*site.glob("*.html"), *(site / "data").iterdir()):
        assert "hacked" not in path.read_text(), path


def test_nothing_is_said_twice_in_a_data_file() -> None:
    answers = {"1": Answer("1", "p", (), "red", 9, 2), "2": Answer("2", "p", (), "It is red.", 9, 2)}
    strict = {"1": {"score": 1.0, "parsed": "red", "note": ""}, "2": {"score": 0.0, "parsed": "it is red", "note": ""}}
    kind = {**strict, "2": {"score": 1.0, "parsed": "red", "note": "word found"}}
    found = sample_lines(["1", "2", "3"], answers, {"cambrian": strict, "robust": kind})
    assert found["cambrian"] == [[1.0, True], [0.0, "it is red"], None]
    assert found["robust"] == [0, [1.0, "red", "word found"], 0]


@pytest.mark.parametrize(
    ("line", "sign"),
    [
        (None, "."), ({"score": float("nan"), "note": "failed: x"}, "-"),
        ({"score": float("nan"), "note": "hidden"}, "."), ({"score": 0.0, "parsed": "x"}, "A"),
        ({"score": 1.0, "parsed": "x"}, "K"), ({"score": 0.02, "parsed": "x"}, "B"),
        ({"score": 0.99, "parsed": "x"}, "J"), ({"score": 0.0, "parsed": None}, "a"),
    ],
)  # fmt: skip
def test_signs_of_the_index(line: dict[str, Any] | None, sign: str) -> None:
    assert score_code(line) == sign


def test_data_files_take_any_text_and_no_other_names(tmp_path: Path) -> None:
    data = {"a": "\ud800 \u2028 </script> \U0001f600", "b": [1.5, None]}
    assert unpacked(write_data(tmp_path, "x-1", data))["a"].endswith("</script> \U0001f600")
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", packed(data))
    with pytest.raises(ValueError, match="no name"):
        write_data(tmp_path, "../x", {})
    with pytest.raises(ValueError, match="JSON"):
        packed({"a": float("nan")})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # The curves are the same in every report, and drawn in that of the module.
    monkeypatch.setattr(build, "scaling_page", lambda *_: "")
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    return tmp_path


def test_without_runs_the_published_rows_are_there(home: Path) -> None:
    out = write_report([], home / "report", asked=False)
    text = (out / "index.html").read_text()
    assert "No run here yet" in text and "I-JEPA" in text and "gives 44.30" not in text
    assert "its sixteen values give 44.30" in text
    assert not (out / "compare.html").exists() and (out / "scaling.html").is_file()


def test_a_name_of_an_encoder_is_escaped(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = site_runs.answered("evil<b>&amp;", 0.5, ["gqa"], 40)
    monkeypatch.setattr(snapshots, "load_samples", lambda *_: [])
    out = write_report([read_run(run.folder)], home / "report")
    for path in out.glob("*.html"):
        assert "<b>&amp;" not in path.read_text(), path
    assert "evil&lt;b&gt;&amp;amp;" in (out / "index.html").read_text()


def test_missing_data_shows_answers_and_says_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_EVAL_DATA", str(home / "nowhere"))
    run = site_runs.answered("mini-dino", 0.5, ["gqa"], 40)
    out = write_report([read_run(run.folder)], home / "report")
    assert "GQA is shown without its questions" in (out / "index.html").read_text()
    assert unpacked(out / "data" / "b00-000.js")["questions"][0] == ""


def test_another_report_replaces_the_old_one_and_nothing_else_is_touched(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "load_samples", lambda *_: [])
    one, two = (site_runs.answered(name, 0.5, ["gqa"], 40) for name in ("mini-dino", "mini-clip"))
    out = write_report([read_run(one.folder)], home / "report")
    first = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    write_report([read_run(one.folder)], out)
    assert {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()} == first
    write_report([read_run(two.folder)], out)
    assert [path.name for path in out.glob("run-*")] == [f"run-{two.hash}.html"]
    (home / "mine").mkdir()
    (home / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="holds other files"):
        write_report([read_run(one.folder)], home / "mine")


def test_runs_on_different_data_are_refused(home: Path) -> None:
    other = made_runs.recipe("other").model_copy(update={"data": "hub"})
    runs = [
        made_runs.make_run("mini-dino", benchmarks=["gqa"]),
        made_runs.make_run("mini-clip", benchmarks=["gqa"], chosen=other),
    ]
    with pytest.raises(UserError, match="different data"):
        write_report([read_run(run.folder) for run in runs], home / "report")


def test_a_report_of_part_of_the_benchmarks_shows_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    # A few of so few samples failed.
    monkeypatch.setenv("MLLM_EVAL_FAILED", "100%")
    monkeypatch.setattr(snapshots, "load_samples", lambda benchmark, *_: site_runs.samples(benchmark.name, 40))
    runs = [site_runs.answered(f"mini-{name}", 0.5, ["gqa"], 40) for name in "abcdef"]
    index = write_report([read_run(run.folder) for run in runs], tmp_path / "alike", images=False) / "index.html"
    text = index.read_text(encoding="utf-8")
    assert "1 benchmark with 40 questions in all" in text
    assert text.count("separates") == 1
    assert "No benchmark separates any two of mini-a, mini-b, mini-c, mini-d, mini-e, mini-f at p" in text
    assert '<td class="num" data-v="" data-tab' not in text.replace("published", "\0").split("\0")[0]
    tabs = re.findall(r'role="tab" data-tab="(\w+)"', text)
    assert tabs == ["general", "all"]
    other = site_runs.answered("mini-a", 0.5, ["seed"], 40)
    assert other.folder == runs[0].folder
    index = write_report([read_run(run.folder) for run in runs], tmp_path / "unlike", images=False) / "index.html"
    assert "not asked alike: 1 to 2 of 2 benchmarks, 40 to 80 questions" in index.read_text(encoding="utf-8")


# --- in a browser ------------------------------------------------------------

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    if BROWSER is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that keeps its console errors and every address it asks for."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.errors = []
    opened.asked = []
    opened.on("console", lambda message: message.type in ("error", "warning") and opened.errors.append(message.text))
    opened.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.on("request", lambda request: opened.asked.append(request.url))
    yield opened
    assert opened.errors == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in opened.asked), opened.asked
    opened.close()


def counted(page: Any, text: str) -> None:
    """Waits until the page has counted so; the policy of the page forbids what polls by a script."""
    from playwright.sync_api import expect

    expect(page.locator("#count")).to_have_text(re.compile(text))


def shows(page: Any, where: str, text: str) -> None:
    from playwright.sync_api import expect

    expect(page.locator(where).first).to_contain_text(text)


def numbered(page: Any, where: str, many: int) -> None:
    from playwright.sync_api import expect

    expect(page.locator(where)).to_have_count(many)


def visit(page: Any, site: Path, name: str) -> None:
    page.goto((site / name.partition("#")[0]).as_uri() + "#" + name.partition("#")[2])
    if name.startswith("compare"):
        counted(page, r"\d+ of [\d,]+ questions\.")


def test_what_scrolls_sideways_says_so_until_its_end(page: Any, site: Path) -> None:
    from playwright.sync_api import expect

    page.set_viewport_size({"width": 360, "height": 800})
    visit(page, site, "index.html")
    frame = page.locator("#table .scroll")
    expect(frame).to_have_class("scroll more")
    assert "scroll sideways" in frame.evaluate("(one) => getComputedStyle(one, '::before').content")
    frame.evaluate("(one) => { one.scrollLeft = one.scrollWidth; }")
    expect(frame).to_have_class("scroll")
    page.set_viewport_size({"width": 1440, "height": 900})
    expect(page.locator("#cost .scroll")).to_have_class("scroll")


@pytest.mark.parametrize("width", [360, 768, 1440])
def test_no_page_is_wider_than_the_screen(page: Any, site: Path, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    for path in sorted(site.glob("*.html")):
        visit(page, site, path.name)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path.name


def test_the_table_sorts_and_shows_tabs_and_published_rows(page: Any, site: Path) -> None:
    visit(page, site, "index.html")
    rows = "[...document.querySelectorAll('#scores tbody tr')].filter(r => !r.hidden)"
    names = rows + ".map(r => r.cells[0].innerText.trim())"
    page.get_by_role("tab", name="General").click()
    assert page.evaluate(names) == ["mini-dino", "mini-clip", "mini-dino (blind)"]
    page.get_by_role("button", name="GQA").click()
    assert page.evaluate(names)[0] == "mini-clip"
    page.get_by_role("button", name="GQA").click()
    assert page.evaluate(names)[0] == "mini-dino (blind)"
    page.get_by_role("button", name="GQA").click()
    assert page.evaluate(names)[0] == "mini-dino"
    assert not page.get_by_role("button", name="TextVQA").is_visible()
    page.get_by_role("tab", name="General").press("ArrowRight")
    page.get_by_role("tab", name="All").click()
    assert page.get_by_role("button", name="TextVQA").is_visible()
    page.get_by_label("published rows").check()
    assert len(page.evaluate(names)) == 3 + 41


def test_the_compare_page_filters_searches_and_opens_samples(page: Any, site: Path) -> None:
    visit(page, site, "compare.html")
    assert page.locator("#count").inner_text() == "900 of 900 questions."
    numbered(page, "#list > li", 20)
    assert page.evaluate("window.hacked") is None and EVIL in page.locator("#list li").first.inner_text()
    # the counts of the forest lead to as many samples
    cell = page.locator("#forest tbody tr", has=page.get_by_role("rowheader", name="GQA")).locator("button").first
    many = cell.inner_text()
    cell.click()
    counted(page, f"^{many} of 300 ")
    assert "benchmark=gqa" in page.url and "show=a" in page.url
    page.select_option("#show", "failed")
    counted(page, "^1 of 300 ")
    page.select_option("#show", "rules")
    shows(page, "#list li .what", "0006")
    page.select_option("#show", "all")
    page.fill("#search", "picture 299?")
    counted(page, "^1 of 300 ")
    page.fill("#search", "")
    counted(page, "^300 of 300 ")
    page.get_by_role("button", name="Next →").click()
    shows(page, "#list li .what", "0020")
    page.locator("#list .what button").first.click()
    dialog = page.get_by_role("dialog")
    assert "GQA · 0020" in dialog.inner_text() and "robust" in dialog.inner_text()
    page.keyboard.press("ArrowRight")
    shows(page, "#sample-h", "0021")
    assert dialog.locator("tbody tr").count() == 3
    assert page.evaluate("document.querySelector('dialog img').naturalWidth") == 96
    page.keyboard.press("Escape")
    assert not dialog.is_visible()


def test_an_address_opens_the_same_view_and_nothing_runs_from_it(page: Any, site: Path) -> None:
    visit(page, site, "compare.html#benchmark=seed&show=unparsed&q=picture&rules=cambrian")
    assert page.locator("#search").input_value() == "picture" and page.locator("#show").input_value() == "unparsed"
    visit(page, site, "compare.html#a=%3Cscript%3E&show=constructor&benchmark=__proto__")
    assert page.locator("#show").input_value() == "all"


def test_why_a_sample_was_scored_so_is_text(page: Any, site: Path) -> None:
    visit(page, site, "compare.html#benchmark=gqa&q=0006")
    page.locator("#list .what button").first.click()
    assert EVIL in page.get_by_role("dialog").inner_text() and "nothing read" in page.get_by_role("dialog").inner_text()
    assert page.evaluate("window.hacked") is None


def test_dark_and_light_switch_by_keyboard(page: Any, site: Path) -> None:
    page.emulate_media(color_scheme="dark")
    visit(page, site, "index.html")
    colour = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(colour)
    page.locator("#theme").focus()
    page.keyboard.press("Enter")
    assert page.evaluate(colour) == "rgb(255, 255, 255)" != dark
    visit(page, site, "scaling.html")
    assert page.evaluate(colour) == "rgb(255, 255, 255)"


def test_everything_is_reached_by_keyboard_and_has_a_name(page: Any, site: Path) -> None:
    visit(page, site, "compare.html")
    nameless = page.evaluate(
        "[...document.querySelectorAll('button, select, input, a, img, svg[role=img]')]"
        ".filter(e => !(e.labels?.length || e.getAttribute('aria-label') || e.textContent.trim() || e.alt)).length"
    )
    assert nameless == 0
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(page: Any, site: Path, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    visit(page, site, "index.html")
    found = page.evaluate(
        "['page','ink','soft','link','good','bad'].map("
        "n => getComputedStyle(document.documentElement).getPropertyValue('--' + n).trim())"
    )

    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    ground = light(found[0])
    for colour in found[1:]:
        high, low = max(ground, light(colour)), min(ground, light(colour))
        assert (high + 0.05) / (low + 0.05) >= 4.5, colour


def test_it_prints(page: Any, site: Path, tmp_path: Path) -> None:
    visit(page, site, "index.html")
    page.emulate_media(media="print")
    assert not page.locator("header").is_visible()
    assert page.pdf(path=str(tmp_path / "x.pdf"))[:4] == b"%PDF"


def test_the_page_of_a_run_and_show_say_what_its_rows_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mllm_eval.cli.looking import show
    from mllm_eval.data.rowcounts import RowCounts
    from mllm_eval.report.site.runpage import training_section

    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path))
    run = site_runs.answered("enc-rows", 0.5, ["gqa"])
    RowCounts(1200, 34, {"repeated marks": 2}, {"broken": 1}).write(run.stage_dir(2))
    said = (
        "1,234 rows, 1,200 with image, 34 text only; 2 rows with repeated <image> marks, counted once; 1 rows left out"
    )
    assert said.replace("<image>", "&lt;image&gt;") in training_section(run.folder, run.hash, tmp_path / "site")
    show(run.hash)
    assert f"stage 2: {said}" in " ".join(capsys.readouterr().out.split())
