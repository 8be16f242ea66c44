"""The figures of the overview and run pages. matplotlib is imported only when a figure is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mllm_eval.report.scalingtable import Line, metric_title, scaling
from mllm_eval.report.site.contents import Evidence, MenuEntry
from mllm_eval.report.site.figures import INK, LINE, PAGE, SOFT, bare, hue, new_figure
from mllm_eval.report.words import title
from mllm_eval.results import AVERAGE, columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mllm_eval.report.corpustable import CorpusGap

Chances = dict[str, float]


def categories(evidence: Evidence, keys: Sequence[str], chances: Chances) -> Figure:
    """A panel each for AVG and the categories, a bar per run with its interval; marks show blind value and chance."""
    from matplotlib.figure import Figure

    blind = dict((a.key, b) for a, b in evidence.blind_pairs)
    # A run without AVG or category is left out; the others keep their colours.
    every = [(index, run) for index, run in enumerate(evidence.seeing)]
    runs = [(index, run) for index, run in every if any(key in run.scored.values for key in keys)]
    figure = Figure(figsize=(9.6, 0.75 + 0.3 * len(runs)), layout="constrained")
    panels = figure.subplots(1, len(keys), sharey=True, sharex=True, squeeze=False)[0]
    top = 0.0
    for axes, key in zip(panels, keys, strict=True):
        bare(axes)
        axes.set_title(title(key))
        for place, (index, run) in enumerate(runs):
            value, limits = run.scored.values.get(key, math.nan), run.scored.interval(key)
            axes.barh(place, value, 0.62, color=hue(index), alpha=0.32, linewidth=0)
            axes.vlines(value, place - 0.31, place + 0.31, color=hue(index), linewidth=2)
            edge = value
            if limits:
                axes.hlines(place, limits.low, limits.high, color=INK, linewidth=1)
                edge = max(edge, limits.high)
            if run.key in blind and key in blind[run.key].scored.values:
                _hollow(axes, blind[run.key].scored.values[key], place)
            if not math.isnan(value):
                axes.annotate(
                    f"{value:.1f}", (edge, place), (4, 0), textcoords="offset points", va="center", fontsize=8.5
                )
                top = max(top, edge)
        if key in chances:
            axes.axvline(chances[key], color=SOFT, linewidth=1, linestyle=(0, (3, 2)))
    panels[0].set_yticks(range(len(runs)), [run.label for _, run in runs], color=INK)
    panels[0].invert_yaxis()
    panels[0].set_xlim(0, min(112.0, top * 1.22 + 2))
    return figure


def _hollow(axes: Axes, value: float, place: float) -> None:
    axes.plot([value], [place], "o", markersize=4.5, markerfacecolor=PAGE, markeredgecolor=INK, markeredgewidth=0.9)


def benchmarks(evidence: Evidence, chances: Chances) -> Figure:
    """A line per benchmark, by category: a dot per run with its interval, a tick for chance, a ring for blind."""
    from matplotlib.figure import Figure

    runs, blind = evidence.seeing, dict((a.key, b) for a, b in evidence.blind_pairs)
    names, known = evidence.benchmarks, columns()
    step = max(0.3, 0.085 * len(runs) + 0.13)
    figure = Figure(figsize=(9.6, 0.6 + step * len(names)), layout="constrained")
    axes = figure.subplots()
    bare(axes)
    spread = min(0.16, 0.66 / max(1, len(runs)))
    for row, name in enumerate(names):
        scale = known.percent(name)
        if name in chances:
            axes.vlines(
                chances[name] * scale, row - 0.36, row + 0.36, color=SOFT, linewidth=1.2, linestyle=(0, (2, 1.5))
            )
        for index, run in enumerate(runs):
            place = row + (index - (len(runs) - 1) / 2) * spread
            value, limits = run.scored.values.get(name), run.scored.interval(name)
            if value is None:
                continue
            if limits:
                axes.hlines(place, limits.low * scale, limits.high * scale, color=hue(index), linewidth=1.3)
            axes.plot([value * scale], [place], "o", markersize=4.5, color=hue(index), zorder=3)
            if run.key in blind and name in blind[run.key].scored.values:
                axes.plot([blind[run.key].scored.values[name] * scale], [place], "o", markersize=3.8,
                          markerfacecolor=PAGE, markeredgecolor=hue(index), markeredgewidth=0.9, zorder=2)  # fmt: skip
        if row and _category(names[row - 1]) != _category(name):
            axes.axhline(row - 0.5, color=LINE, linewidth=0.8)
    axes.set_yticks(range(len(names)), [title(name) for name in names], color=INK)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.set_xlim(-1.5, 100)
    axes.xaxis.set_ticks_position("both")
    axes.tick_params(labeltop=True)
    return figure


def _category(name: str) -> str:
    known = columns().benchmarks.get(name)
    return known.category if known else ""


def curves(fits: Sequence[Line], keys: Sequence[str], curve: str) -> Figure:
    """A panel per metric: points, fit and 95 % band of each family; measured points filled, published ones hollow."""
    from matplotlib.figure import Figure

    wide = min(3, len(keys))
    tall = -(-len(keys) // wide)
    figure = Figure(figsize=(3.2 * wide, 2.55 * tall), layout="constrained")
    panels = figure.subplots(tall, wide, squeeze=False, sharex=True).reshape(-1)
    families = list(dict.fromkeys(line.family for line in fits))
    for axes in panels[len(keys) :]:
        axes.set_visible(False)
    for axes, key in zip(panels, keys, strict=False):
        bare(axes, "y")
        axes.set_title(metric_title(key))
        axes.set_xscale("log", base=2)
        ends: list[tuple[float, float, str, str]] = []
        for line in (one for one in fits if one.key == key):
            colour, own = hue(families.index(line.family)), line.source == "measured"
            x = np.geomspace(line.fit.x.min(), line.fit.x.max(), 40)
            low, high = line.fit.band(x)
            axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
            axes.plot(x, line.fit.at(x), color=colour, linewidth=1.6, linestyle="-" if own else (0, (5, 1.5)))
            axes.plot(line.fit.x, line.fit.y, "o", color=colour, markersize=4.5,
                      markerfacecolor=colour if own else PAGE, markeredgewidth=1.2)  # fmt: skip
            ends.append((float(x[-1]), float(line.fit.at(x[-1:])[0]), line.family + (", here" if own else ""), colour))
        _named_ends(axes, ends)
        sizes = np.concatenate([line.fit.x for line in fits])
        ticks = [2.0**power for power in range(math.floor(np.log2(sizes.min())), math.ceil(np.log2(sizes.max())) + 1)]
        ticks = [tick for tick in ticks if sizes.min() * 0.87 <= tick <= sizes.max() * 1.3]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    for axes in panels[max(0, len(keys) - wide) : len(keys)]:
        axes.tick_params(labelbottom=True)
    if engine := figure.get_layout_engine():
        engine.set(h_pad=0.1)  # type: ignore[call-arg]  # of the constrained layout
    figure.supxlabel(scaling().curves[curve].axis, fontsize=9, color=SOFT)
    return figure


def _named_ends(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Writes names at the right ends of the lines, moved apart if they would overlap."""
    low, high = axes.get_ylim()
    apart, last = (high - low) * 0.085, -math.inf
    right = max((x for x, *_ in ends), default=1.0)
    left = axes.get_xlim()[0]
    for _, y, name, colour in sorted(ends, key=lambda end: end[1]):
        last = max(y, last + apart)
        axes.annotate(name, (right, last), (6, 0), textcoords="offset points", va="center", color=colour, fontsize=8.5)
    axes.set_xlim(left, right * (right / left) ** 0.42)


def losses(stages: Sequence[tuple[str, Sequence[float], Sequence[float]]]) -> Figure:
    """A panel per stage: the loss of each step in a light colour, and its running mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 2.7), layout="constrained")
    for axes, (name, steps, loss) in zip(figure.subplots(1, len(stages), squeeze=False)[0], stages, strict=True):
        bare(axes, "y")
        axes.set_title(name)
        axes.plot(steps, loss, color=hue(0), alpha=0.3, linewidth=0.8)
        window = max(1, len(loss) // 25)
        if len(loss) > 2 * window:
            mean = np.convolve(loss, np.ones(window) / window, mode="valid")
            axes.plot(np.asarray(steps)[window - 1 :], mean, color=hue(0), linewidth=1.6)
        axes.set_ylim(0, max(loss) * 1.04)
        axes.set_xlabel("step")
    return figure


def corpus_changes(gaps: Sequence[CorpusGap]) -> Figure:
    """A panel per corpus: what it changes in AVG and the categories, for each seed and for their mean."""
    pairs = list(dict.fromkeys((one.corpus, one.baseline) for one in gaps))
    figure = new_figure(0.8 + 4.4 * len(pairs), 3.4)
    panels = figure.subplots(1, len(pairs), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (corpus, baseline) in zip(panels, pairs, strict=True):
        own = [one for one in gaps if (one.corpus, one.baseline) == (corpus, baseline)]
        keys = list(own[0].differences)
        bare(axes, "x")
        axes.axvline(0, color=SOFT, linewidth=1)
        step = 0.7 / len(own)
        for index, gap in enumerate(own):
            colour, wide = (INK, 2.0) if gap.seed is None else (hue(index), 1.2)
            places = [place + (index - (len(own) - 1) / 2) * step for place in range(len(keys))]
            known = [gap.differences[key] for key in keys]
            axes.hlines(places, [one.low for one in known], [one.high for one in known], color=colour, linewidth=wide)
            axes.plot([one.value for one in known], places, "D" if gap.seed is None else "o", markersize=5,
                      color=colour, linestyle="none", label=gap.label)  # fmt: skip
        axes.set_yticks(range(len(keys)), [title(key) for key in keys], color=INK)
        axes.set_title(f"{corpus} minus {baseline}")
        axes.set_xlabel("points")
    panels[0].invert_yaxis()
    panels[-1].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def chance_levels(runs: Sequence[MenuEntry], keys: Sequence[str]) -> Chances:
    """Chance levels of the benchmarks, and of categories and AVG if all their members have one.

    A benchmark whose level differs between runs has none.
    """
    chances: Chances = {}
    for name in dict.fromkeys(name for run in runs for name in run.scored.benchmarks):
        levels = {float(run.scored.summaries[name]["chance"]) for run in runs if name in run.scored.summaries}
        if len(levels) == 1:
            chances[name] = levels.pop()
    return {**chances, **{key: value for key, value in columns().means(chances).items() if key in (AVERAGE, *keys)}}
