"""Html can't be made of texts by an oversight: what the type does, and what the package's syntax says of its use."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

from mllm_eval import escaping
from mllm_eval.html import NOTHING, Html, joined
from mllm_eval.report.site import markup

SLY = "<b title='x'>&\"\u202e"
SAFE = escaping.html(SLY)
# What is html and stands in no literal: the drawing of matplotlib, the site's style sheet, the rows of pandas.
SOURCES = {("site/figures.py", "_themed"), ("filtering/page.py", "page"), ("score/frames.py", "_repr_html_")}
ELEMENTS = (
    "a b body br button code dd details div dl dt figcaption figure form h[1-6] head header html i img label li link "
    "main meta nav noscript ol option p script section select small span style summary sup svg table tbody td th thead "
    "tr ul"
)
TAG = re.compile(rf"<!doctype|</?(?:{ELEMENTS.replace(' ', '|')})[\s>]", re.IGNORECASE)


@pytest.mark.parametrize(
    "made",
    [
        Html("<p>{}</p>").format(SLY),
        Html("<p>{0}</p>").format(SLY),
        Html("<p>{x}</p>").format_map({"x": SLY}),
        Html("<p>%s</p>") % SLY,
        Html("<p>") + SLY + Html("</p>"),
        Html("<p>x</p>").replace("x", SLY),
        NOTHING.join([Html("<p>"), SLY, Html("</p>")]),
        joined(Html("<p>"), SLY, Html("</p>")),
        Html("<p>{}</p>").format(f"{NOTHING}{SLY}"),
    ],
)
def test_a_text_is_escaped_however_it_comes_into_html(made: Html) -> None:
    assert type(made) is Html and str(made) == f"<p>{SAFE}</p>"


def test_a_text_before_html_is_escaped_and_numbers_are_formatted() -> None:
    assert SLY + Html("<br>") == Html("{}<br>").format(SLY) and type(SLY + Html("<br>")) is Html
    assert Html("<b>{:,} {:.1f}</b>").format(1234, 0.25) == "<b>1,234 0.2</b>"
    assert Html.escape(Html("<br>")) == "<br>" and Html("<p>{}</p>").format(Html("<br>")) == "<p><br></p>"


def test_whoever_forgets_shows_the_text_and_no_element() -> None:
    """mypy refuses this; should it be silenced, a page shows what an f-string made as text."""
    forgotten = f"<b>{SLY}</b>"
    made = markup.page("t", "x.html", markup.section("a", "b", forgotten), [], [])  # type: ignore[arg-type]
    assert "<b" not in made.replace("<body", "").replace("<button", "") and "&lt;b&gt;&lt;b title" in made


def modules() -> Iterator[Path]:
    for package in ("mllm_eval", "adapters", "benchmarks"):
        yield from sorted((ROOT / package).rglob("*.py"))


def is_literal(value: ast.expr) -> bool:
    if isinstance(value, ast.IfExp):
        return is_literal(value.body) and is_literal(value.orelse)
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def wrong(source: str, file: str) -> list[str]:
    """The lines where html is made of something else than a literal, or stands outside of `Html`."""
    tree = ast.parse(source)
    inside: dict[ast.AST, str] = {}
    allowed: set[int] = set()
    found = []
    for node in ast.walk(tree):
        function = node.name if isinstance(node, ast.FunctionDef) else inside.get(node, "")
        inside.update({child: function for child in ast.iter_child_nodes(node)})
        body = getattr(node, "body", None)
        for one in body if isinstance(body, list) else ():
            # A text that stands alone is a comment on what is above it.
            if isinstance(one, ast.Expr):
                allowed.add(id(one.value))
        arguments = node.args if isinstance(node, ast.Call) else []
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if called == "Html" and not all(map(is_literal, arguments)) and (file, function) not in SOURCES:
            found.append(f"{file}:{node.lineno}: Html of what is no literal")
        if called in ("Html", "re.compile"):
            allowed |= {id(one) for argument in arguments for one in ast.walk(argument)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in allowed:
            # Markdown has no other way to raise a footnote's letter.
            text = re.sub("</?sup>", "", node.value) if file == "report/plaintext.py" else node.value
            found += [f"{file}:{node.lineno}: html outside of Html"] if TAG.search(text) else []
        if isinstance(node, ast.ImportFrom) and node.module == "markupsafe":
            found += [f"{file}:{node.lineno}: markupsafe beside Html"] if file != "mllm_eval/html.py" else []
        if isinstance(node, ast.Attribute) and node.attr == "savefig":
            found += [f"{file}:{node.lineno}: a figure past figures.save"] if file != "site/figures.py" else []
    return found


@pytest.mark.slow
def test_all_html_of_the_package_is_literal() -> None:
    assert [
        line for path in modules() for line in wrong(path.read_text(encoding="utf-8"), "/".join(path.parts[-2:]))
    ] == []


@pytest.mark.parametrize(
    "source",
    [
        'def page(x):\n    return f"<p>{x}</p>"',
        'def page(x):\n    return "<td>" + x',
        'def page(x):\n    return Html(f"<p>{x}</p>")',
        "def page(x):\n    return Html(x)",
        'def page(x):\n    return Html("<p>" + x)',
        "from markupsafe import Markup",
        'def page(x):\n    x.savefig("a.png")',
    ],
)
def test_the_reading_of_the_syntax_finds_what_it_is_for(source: str) -> None:
    assert wrong(source, "site/other.py")


def test_the_listed_sources_are_all_there() -> None:
    files = {"/".join(path.parts[-2:]): path for path in modules()}
    for file, function in SOURCES:
        assert f"def {function}(" in files[file].read_text(encoding="utf-8")
