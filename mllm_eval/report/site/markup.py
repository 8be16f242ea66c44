"""Pieces of html. Every text that comes from files goes through `escape`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mllm_eval.escaping import html as escape

POLICY = (
    "default-src 'none'; script-src 'self' file:; style-src 'self' file: 'unsafe-inline'; img-src 'self' file: data:"
)


def page(
    title: str,
    here: str,
    body: str,
    nav: Sequence[tuple[str, str]],
    runs: Sequence[tuple[str, str]],
    scripts: Sequence[str] = (),
    foot: str = "",
) -> str:
    """A whole page; `nav` and `runs` are (file, name), `here` is this page's file."""

    def link(file: str, name: str) -> str:
        return f'<a href="{escape(file)}"{" aria-current=page" if file == here else ""}>{escape(name)}</a>'

    links = "".join(link(*one) for one in nav)
    if runs:
        links += '<span class="runs">Runs</span>' + "".join(link(*one) for one in runs)
    loaded = "".join(f'<script src="assets/{escape(name)}.js" defer></script>\n' for name in ("core", *scripts))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{escape(title)}</title>\n"
        '<link rel="stylesheet" href="assets/site.css">\n'
        f'<link rel="icon" href="data:,">\n{loaded}</head>\n<body>\n'
        '<a class="skip" href="#main">Skip to the content</a>\n'
        f'<header><nav aria-label="Pages">{links}</nav>'
        '<button type="button" id="theme" aria-label="Switch between light and dark" hidden>◐</button></header>\n'
        f'<main id="main">\n{body}\n</main>\n<footer>{foot}</footer>\n</body>\n</html>\n'
    )


def section(name: str, heading: str, body: str, lead: str = "") -> str:
    """A section with its heading; `lead` is escaped already."""
    led = f'<p class="lead">{lead}</p>\n' if lead else ""
    own = f"{escape(name)}-h"
    return (
        f'<section id="{escape(name)}" aria-labelledby="{own}">\n<h2 id="{own}">{escape(heading)}</h2>\n'
        f"{led}{body}\n</section>\n"
    )


def sheet(
    name: str, caption: str, head: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]], note: str = ""
) -> str:
    """A plain table; `head` is (title, whether numbers). The first cell of a row is its heading, a row of one cell the
    heading of a group. Escapes all."""

    def cell(text: str, number: bool, first: bool) -> str:
        kind = ' class="num"' if number else ""
        return f'<th scope="row"{kind}>{escape(text)}</th>' if first else f"<td{kind}>{escape(text)}</td>"

    heads = "".join(f'<th scope="col"{" class=num" if number else ""}>{escape(text)}</th>' for text, number in head)
    body = "\n".join(
        f'<tr class="group"><th scope="rowgroup" colspan="{len(head)}">{escape(row[0])}</th></tr>'
        if len(row) == 1
        else "<tr>" + "".join(cell(text, head[i][1], i == 0) for i, text in enumerate(row)) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table id="{escape(name)}">'
        f"<caption>{escape(caption)}</caption><thead><tr>{heads}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
        + (f'<p class="note">{escape(note)}</p>' if note else "")
    )


def listed(items: Iterable[str], kind: str = "") -> str:
    """An unordered list of texts, escaped."""
    rows = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f"<ul{f' class={kind}' if kind else ''}>{rows}</ul>" if rows else ""


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of names and what they are, escaped."""
    return "<dl>" + "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in pairs) + "</dl>"
