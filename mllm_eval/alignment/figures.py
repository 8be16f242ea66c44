"""Heat maps of layers, and alignment against the size of the language model. matplotlib is loaded when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mllm_eval.report.site.figures import INK, SOFT, hue, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mllm_eval.alignment.measure import Result


def heat_maps(results: Sequence[Result]) -> Figure:
    """A row an encoder, a column an LLM: every pair of layers, the best one marked; one scale for all."""
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


def against_size(results: Sequence[Result]) -> Figure:
    """Score with its interval against the LLM's parameters, a line an encoder; the null's 95th percentile dashed."""
    figure = new_figure(5.4, 3.2)
    axes = figure.subplots()
    for index, encoder in enumerate(dict.fromkeys(one.encoder for one in results)):
        own = sorted((one for one in results if one.encoder == encoder), key=lambda one: one.llm_params)
        sizes, scores = [one.llm_params for one in own], [one.score for one in own]
        colour = hue(index)
        axes.plot(sizes, scores, marker="o", color=colour, linewidth=1.2)
        for one in own:
            if one.interval is not None:
                axes.vlines(one.llm_params, *one.interval, color=colour, linewidth=1)
        axes.annotate(encoder, (sizes[-1], scores[-1]), (6, 0), textcoords="offset points", va="center", color=colour)
    if nulls := [one.null.high for one in results if one.null is not None]:
        axes.axhline(max(nulls), color=SOFT, linewidth=1, linestyle=(0, (3, 2)))
    axes.set_xscale("log")
    axes.set_xlabel("parameters of the LLM", color=SOFT)
    axes.set_ylabel(results[0].metric, color=SOFT)
    axes.set_ylim(bottom=0)
    axes.margins(x=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure


def write_figures(results: Sequence[Result], folder: Path) -> list[Path]:
    """Write the heat maps, and where the LLMs differ in size the curve, as PNG and PDF; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    figures = {"layers": heat_maps(results)}
    if len({one.llm_params for one in results}) > 1:
        figures["size"] = against_size(results)
    for name, figure in figures.items():
        for form in ("png", "pdf"):
            written.append(folder / f"{name}.{form}")
            figure.savefig(written[-1], dpi=160, metadata={"CreationDate": None} if form == "pdf" else None)
    return written
