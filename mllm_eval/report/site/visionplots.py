"""The figures of classic vision and alignment: sweeps over layers, heat maps, and scores against model size.

matplotlib is imported only when a figure is drawn.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mllm_eval.errors import UserError
from mllm_eval.report.probetable import UNITS
from mllm_eval.report.site.figures import INK, SOFT, bare, hue, new_figure, save, style
from mllm_eval.results.aligned import Aligned
from mllm_eval.results.probed import Probed
from mllm_eval.storage import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = ("llm_params", "encoder_params")


def sweep_figure(sweeps: Sequence[Probed]) -> Figure:
    """A panel per probe: the value of each block with its interval, a line per encoder."""
    probes = list(dict.fromkeys(one.probe for one in sweeps))
    encoders = list(dict.fromkeys(one.encoder for one in sweeps))
    # Three panels fill the width of a page.
    wide = min(3, len(probes))
    tall = -(-len(probes) // wide)
    figure = new_figure(3.4 * wide, 2.8 * tall)
    panels = figure.subplots(tall, wide, squeeze=False).reshape(-1)
    for axes in panels[len(probes) :]:
        axes.set_visible(False)
    for axes, probe in zip(panels, probes, strict=False):
        bare(axes, "y")
        own = [one for one in sweeps if one.probe == probe]
        for one in own:
            colour = hue(encoders.index(one.encoder))
            known = [reading for reading in one.readings if reading.value is not None]
            depth = [reading.layers[-1] for reading in known]
            values = [reading.value or 0.0 for reading in known]
            axes.plot(depth, values, "o-", markersize=3.5, linewidth=1.2, label=one.encoder, color=colour)
            low, high = ([math.nan if one is None else one for one in edge]
                         for edge in ([each.low for each in known], [each.high for each in known]))  # fmt: skip
            axes.fill_between(depth, low, high, alpha=0.18, linewidth=0, color=colour)
        axes.set_title(own[0].title, fontsize=9)
        axes.set_xlabel("block", fontsize=8)
        axes.set_ylabel(UNITS[own[0].metric], fontsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.tick_params(labelsize=8)
    panels[0].legend(fontsize=8, frameon=False)
    return figure


def write_sweep(sweeps: Sequence[Probed], path: Path) -> Path | None:
    """Draws the sweeps among these results into an svg file; None without sweeps, or without matplotlib."""
    swept = [one for one in sweeps if len(one.readings) > 1]
    return write_svg(path, "sweep", lambda: sweep_figure(swept)) if swept else None


def write_svg(path: Path, name: str, draw: Callable[[], Figure]) -> Path | None:
    """Draws a figure on white into an svg file; None without matplotlib. name: prefix of the ids in it."""
    into = io.BytesIO()
    try:
        with style(name):
            save(draw(), into, format="svg", metadata={"Date": None}, facecolor="white")
    except UserError:
        return None
    write_atomic(path, into.getvalue())
    return path


def heat_maps(results: Sequence[Aligned]) -> Figure:
    """A row per encoder and a column per LLM: the score of each pair of layers on one scale, the best pair marked."""
    encoders = list(dict.fromkeys(one.encoder for one in results))
    llms = list(dict.fromkeys(one.llm for one in results))
    figure = new_figure(3.0 * len(llms) + 0.9, 2.3 * len(encoders) + 0.6)
    panels = figure.subplots(len(encoders), len(llms), squeeze=False)
    low = min(min(min(row) for row in one.scores) for one in results)
    high = max(one.score for one in results)
    image = None
    for one in results:
        axes = panels[encoders.index(one.encoder), llms.index(one.llm)]
        grid = np.array(one.scores)
        image = axes.imshow(grid, vmin=low, vmax=high, cmap="viridis", origin="lower", aspect="auto")
        axes.plot(one.llm_layer, one.layer - 1, marker="s", markersize=9, markerfacecolor="none", color="white")
        axes.set_title(f"{one.score:.3f}", fontsize=9, loc="right", color=INK)
        shown = range(0, len(grid), max(1, len(grid) // 8))
        axes.set_yticks(shown, [str(layer + 1) for layer in shown])
    for at, encoder in enumerate(encoders):
        panels[at, 0].set_ylabel(f"{encoder}\nblock", color=INK)
    for at, llm in enumerate(llms):
        panels[0, at].set_title(llm.replace(" after ", "\nafter "), fontsize=9, loc="left", color=INK)
        panels[-1, at].set_xlabel("layer, 0 is the embedding", color=SOFT)
    if image is not None:
        figure.colorbar(image, ax=list(panels.flat), label=results[0].metric, fraction=0.04)
    return figure


def against_size(results: Sequence[Aligned]) -> Figure:
    """Scores with their intervals against the parameters of the LLM (a line per encoder) and of the encoder (dots).

    An axis is drawn only if sizes differ. The dashed line is the largest 95th percentile of the null distributions.
    """
    sides = [size for size in SIZES if _differ(results, size)]
    figure = new_figure(4.8 * len(sides), 3.2)
    panels = figure.subplots(1, len(sides), squeeze=False, sharey=True)[0]
    for axes, size in zip(panels, sides, strict=True):
        bare(axes, "y")
        of_llm = size == "llm_params"
        named, ends = ("encoder" if of_llm else "llm"), []
        for index, name in enumerate(dict.fromkeys(getattr(one, named) for one in results)):
            own = sorted((one for one in results if getattr(one, named) == name), key=lambda one: getattr(one, size))
            # No line between encoders: it would suggest that they differ in size alone.
            axes.plot([getattr(one, size) for one in own], [one.score for one in own], "o-" if of_llm else "o",
                      markersize=4, linewidth=1.2, color=hue(index), label=name)  # fmt: skip
            for one in own:
                if one.interval is not None:
                    axes.vlines(getattr(one, size), *one.interval, color=hue(index), linewidth=1)
            if of_llm:
                ends.append((getattr(own[-1], size), own[-1].score, name, hue(index)))
            elif not index:
                ends += [(getattr(one, size), one.score, one.encoder, INK) for one in own]
        if nulls := [one.null.high for one in results if one.null is not None]:
            axes.axhline(max(nulls), color=SOFT, linewidth=1, linestyle=(0, (3, 2)))
        axes.set_xscale("log")
        axes.set_xlabel(f"parameters of the {'LLM' if of_llm else 'encoder'}", color=SOFT)
        axes.set_ylim(bottom=0)
        axes.margins(x=0.35)
        for x, y, name, colour in ends:
            axes.annotate(name, (x, y), (6, 0), textcoords="offset points", va="center", color=colour, fontsize=8)
        if not of_llm and len({one.llm for one in results}) > 1:
            axes.legend(fontsize=7, frameon=False)
    panels[0].set_ylabel(results[0].metric, color=SOFT)
    return figure


def _differ(results: Sequence[Aligned], size: str) -> bool:
    """Whether the largest size is at least 1.5 times the smallest, so that an axis of sizes is useful."""
    sizes = [float(getattr(one, size)) for one in results]
    return max(sizes) >= 1.5 * min(sizes)


def sized(results: Sequence[Aligned]) -> bool:
    """Whether encoders or LLMs differ enough in size for `against_size`."""
    return any(_differ(results, size) for size in SIZES)


def write_figures(results: Sequence[Aligned], folder: Path) -> list[Path]:
    """Writes the heat maps, and the curves against size if sizes differ, as PNG and PDF; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with style("alignment"):
        figures = {"layers": heat_maps(results)}
        if sized(results):
            figures["size"] = against_size(results)
        for name, figure in figures.items():
            for form in ("png", "pdf"):
                written.append(folder / f"{name}.{form}")
                kept: dict[str, str | None] = {"CreationDate": None} if form == "pdf" else {}
                save(figure, written[-1], dpi=160, facecolor="white", metadata=kept or None)
    return written
