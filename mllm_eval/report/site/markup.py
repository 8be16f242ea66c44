"""Builders of html. They escape the texts that they are given, unless a text is of type Html."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mllm_eval.html import NOTHING, Html

POLICY = Html(
    "default-src 'none'; script-src 'self' file:; style-src 'self' file: 'unsafe-inline'; img-src 'self' file: data:"
)


def page(
    title: str,
    here: str,
    body: Html,
    nav: Sequence[tuple[str, str]],
    runs: Sequence[tuple[str, str]],
    scripts: Sequence[str] = (),
    foot: Html = NOTHING,
) -> Html:
    """A complete page. `nav` and `runs` are (file, name) of the links; `here` is this page's own file."""

    def link(file: str, name: str) -> Html:
        current = Html(" aria-current=page") if file == here else NOTHING
        return Html('<a href="{}"{}>{}</a>').format(file, current, name)

    links = NOTHING.join(link(*one) for one in nav)
    if runs:
        links += Html('<span class="runs">Runs</span>') + NOTHING.join(link(*one) for one in runs)
    script = Html('<script src="assets/{}.js" defer></script>\n')
    loaded = NOTHING.join(script.format(name) for name in ("core", *scripts))
    return Html(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        "<title>{title}</title>\n"
        '<link rel="stylesheet" href="assets/site.css">\n'
        '<link rel="icon" href="data:,">\n{loaded}</head>\n<body>\n'
        '<a class="skip" href="#main">Skip to the content</a>\n'
        '<header><nav aria-label="Pages">{links}</nav>'
        '<button type="button" id="theme" aria-label="Switch between light and dark" hidden>◐</button></header>\n'
        '<main id="main">\n{body}\n</main>\n<footer>{foot}</footer>\n</body>\n</html>\n'
    ).format(policy=POLICY, title=title, loaded=loaded, links=links, body=body, foot=foot)


def headline(heading: str, lead: str, more: Html = NOTHING) -> Html:
    """The head of a page: its heading, a sentence below it, and optional html."""
    return Html('<section class="headline"><h1>{}</h1><p class="lead">{}</p>{}</section>').format(heading, lead, more)


def section(name: str, heading: str, body: Html, lead: str = "") -> Html:
    """A section with its heading. `lead` is a text or Html."""
    led = Html('<p class="lead">{}</p>\n').format(lead) if lead else NOTHING
    return Html(
        '<section id="{name}" aria-labelledby="{name}-h">\n<h2 id="{name}-h">{heading}</h2>\n{led}{body}\n</section>\n'
    ).format(name=name, heading=heading, led=led, body=body)


def sheet(
    name: str, caption: str, head: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]], text: str = ""
) -> Html:
    """A plain table. `head` is (title, whether the column holds numbers) per column; `text` is a note below the table.

    The first cell of a row is its heading. A row of a single cell is the heading of a group.
    """

    def cell(text: str, number: bool, first: bool) -> Html:
        kind = Html(' class="num"') if number else NOTHING
        return Html('<th scope="row"{}>{}</th>' if first else "<td{}>{}</td>").format(kind, text)

    title = Html('<th scope="col"{}>{}</th>')
    heads = NOTHING.join(title.format(Html(" class=num") if number else NOTHING, text) for text, number in head)
    group = Html('<tr class="group"><th scope="rowgroup" colspan="{}">{}</th></tr>')
    line = Html("<tr>{}</tr>")
    body = Html("\n").join(
        group.format(len(head), row[0])
        if len(row) == 1
        else line.format(NOTHING.join(cell(text, head[i][1], i == 0) for i, text in enumerate(row)))
        for row in rows
    )
    return Html(
        '<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table id="{name}">'
        "<caption>{caption}</caption><thead><tr>{heads}</tr></thead><tbody>\n{body}\n</tbody></table></div>{note}"
    ).format(caption=caption, name=name, heads=heads, body=body, note=note(text))


def note(text: str) -> Html:
    """A note as a paragraph; nothing if the text is empty."""
    return Html('<p class="note">{}</p>').format(text) if text else NOTHING


def opened(summary: str, body: Html) -> Html:
    """A block that unfolds with a click on its summary."""
    return Html("<details><summary>{}</summary>{}</details>").format(summary, body)


def listed(items: Iterable[str], kind: str = "") -> Html:
    """An unordered list of texts."""
    rows = NOTHING.join(Html("<li>{}</li>").format(item) for item in items)
    of = Html(' class="{}"').format(kind) if kind else NOTHING
    return Html("<ul{}>{}</ul>").format(of, rows) if rows else NOTHING


def facts(pairs: Iterable[tuple[str, str]]) -> Html:
    """A list of names with their values."""
    one = Html("<div><dt>{}</dt><dd>{}</dd></div>")
    return Html("<dl>{}</dl>").format(NOTHING.join(one.format(name, said) for name, said in pairs))
