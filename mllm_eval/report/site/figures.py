"""The common style of all figures, which are written as SVG for the pages and as PDF for papers.

In an SVG the colours are CSS variables, so that a figure follows the page's light or dark theme; its text takes the
page's font. The eight hues can be told apart by colour-blind readers (Okabe & Ito 2008), and rows and lines are
labelled, so that nothing depends on hue alone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mllm_eval import escaping
from mllm_eval.errors import UserError
from mllm_eval.html import Html
from mllm_eval.storage import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LACKING = "figures need matplotlib; pip install 'mllm-eval[report]'"
INK, SOFT, LINE, PAGE = "#1b1f24", "#5b6570", "#d9dee4", "#ffffff"
HUES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56a0d3", "#7a4fa3", "#6b6b6b")
_VARIABLES = {INK: "ink", SOFT: "soft", LINE: "line", PAGE: "page", **{hue: f"hue{i}" for i, hue in enumerate(HUES)}}
_STYLE = {
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "semibold",
    "axes.titlelocation": "left",
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
}


def hue(index: int) -> str:
    """The colour of the index-th run."""
    return HUES[index % len(HUES)]


def new_figure(width: float, height: float) -> Figure:
    """An empty matplotlib figure; width and height in inches. Raises UserError if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError(LACKING) from None
    return Figure(figsize=(width, height), layout="constrained")


@contextmanager
def style(name: str) -> Iterator[None]:
    """A context manager that sets the style for drawing. `name` makes the ids inside an SVG unique on its page.

    Raises UserError if matplotlib is not installed.
    """
    try:
        import logging

        import matplotlib

        logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    except ImportError:
        raise UserError(LACKING) from None
    settings: Any = {**_STYLE, "svg.hashsalt": name}  # its stub wants every key as a literal
    with matplotlib.rc_context(settings):
        yield


Draw = Callable[[], "Figure"]


def write_figure(out: Path, name: str, draw: Draw, alt: str, caption: str) -> Html:
    """Draws a figure, writes it to figures/<name>.pdf, and returns the html of the figure with its caption."""
    pdf = io.BytesIO()

    def also_pdf(figure: Figure) -> None:
        save(figure, pdf, format="pdf", metadata={"CreationDate": None, "Title": escaping.lines(alt)})

    link = Html('{} <a href="figures/{}.pdf">PDF</a>').format(caption, name)
    html = inline_figure(name, draw, alt, link, also_pdf)
    write_atomic(out / "figures" / f"{name}.pdf", pdf.getvalue())
    return html


def inline_figure(
    name: str, draw: Draw, alt: str, caption: str, also: Callable[[Figure], None] = lambda _: None
) -> Html:
    """Draws a figure and returns its html with its caption. `also` is called with the figure that was drawn."""
    with style(name):
        figure = draw()
        also(figure)
        svg = io.StringIO()
        save(figure, svg, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Html(
        '<figure id="figure-{}"><div class="plot" tabindex="0" role="group" aria-label="{}">{}</div>\n'
        "<figcaption>{}</figcaption></figure>\n"
    ).format(name, alt, _themed(svg.getvalue(), alt), caption)


def save(figure: Figure, into: Path | IO[Any], **options: Any) -> None:
    """Writes a figure with all its texts escaped, so that matplotlib does not read them as formulas.

    `options` are those of matplotlib's `savefig`.
    """
    from matplotlib.text import Text
    from matplotlib.ticker import FuncFormatter

    ticks: set[int] = set()
    for axis in (one for axes in figure.axes for one in (axes.xaxis, axes.yaxis)):
        # The formatter writes the tick labels each time the figure is drawn, so its output must be escaped.
        named = axis.get_major_formatter()
        if isinstance(named, FuncFormatter):
            axis.set_major_formatter(_escaped(named))
        ticks |= {id(text) for text in axis.findobj(Text) if text is not axis.label}
    for text in figure.findobj(Text):
        if isinstance(text, Text) and id(text) not in ticks:
            text.set_text(escaping.figure(text.get_text()))
    figure.savefig(into, **options)


def _escaped(named: Callable[..., str]) -> Callable[..., str]:
    return lambda value, place=None: escaping.figure(named(value, place))


def _themed(svg: str, alt: str) -> Html:
    """Replaces fixed colours and fonts in matplotlib's SVG, which escapes its texts, by those of the page."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # several figures on a page would share these names
    for colour, variable in _VARIABLES.items():
        body = re.sub(re.escape(colour), f"var(--{variable})", body, flags=re.I)
    body = re.sub(r"font: ([^;\"]*?)([\d.]+px) [^;\"]*", r"font: \1\2 var(--sans)", body)
    width = re.search(r'viewBox="0 0 ([\d.]+)', body)
    style_ = f"min-width:{float(width[1]) * 1.05:.0f}px" if width else ""
    head = Html(
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        'viewBox="{}" role="img" style="{}"><title>{}</title>'
    )
    body = re.sub(r'<svg[^>]*?viewBox="([^"]*)"[^>]*>', lambda match: head.format(match[1], style_, alt), body, count=1)
    return Html(re.sub(r"\n\s*", "\n", body).strip())


def bare(axes: Any, grid: str = "x") -> None:
    """Draws grid lines in one direction only, and removes the bottom spine unless the grid is horizontal."""
    axes.grid(True, axis=grid)
    axes.spines["bottom"].set_visible(grid == "y")
