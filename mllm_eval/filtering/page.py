"""The report of a filtered corpus: one self-contained html file. No torch."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_eval.catalog.level import Level
from mllm_eval.data.shards import Broken
from mllm_eval.decoding import decode
from mllm_eval.errors import UserError
from mllm_eval.filtering.agreement import Agreement, Proportion, agreement, share
from mllm_eval.filtering.corpus import Corpus
from mllm_eval.filtering.corpusrun import Filtered
from mllm_eval.filtering.reading import FAULTS, entries
from mllm_eval.filtering.tally import BINS, NearThreshold, Tally
from mllm_eval.filtering.throughput import Projection
from mllm_eval.html import NOTHING, Html, joined
from mllm_eval.report.site.build import ASSETS
from mllm_eval.report.site.figures import HUES, INK, LACKING, Draw, bare, inline_figure, new_figure
from mllm_eval.report.site.markup import facts, headline, listed, note, opened, section, sheet
from mllm_eval.storage import read_text, write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EDGE = 168  # pixels of a thumbnail's longer side
POLICY = Html("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
STYLE = Html("""
.shown { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.2rem, 1fr)); gap: .9rem; }
.shown { margin: .6rem 0 1.4rem; }
.shown figure { margin: 0; } .shown img { width: 100%; height: 8.2rem; object-fit: contain; background: var(--band); }
.shown figcaption { margin: .3rem 0 0; font-size: .75rem; } .shown b { color: var(--ink); font-weight: 600; }
.gone { display: block; height: 8.2rem; background: var(--band); }
""")
Images = dict[NearThreshold, str]
"""Image -> data URL of its thumbnail, for the images that could be read again."""


def write_page(
    made: Filtered,
    corpus: Corpus,
    level: Level,
    projected: Projection | None,
    image_column: str | None = None,
) -> Path:
    """Writes report.html next to the decisions, and returns its path. Images near the threshold are read again."""
    tally = made.tally
    shown = [*tally.near_kept, *tally.near_dropped]
    images = thumbnails(corpus, shown, image_column)
    path = made.out / "report.html"
    write_atomic(path, page(made, level, projected, images))
    return path


def thumbnails(corpus: Corpus, wanted: Sequence[NearThreshold], image_column: str | None = None) -> Images:
    """JPEG thumbnails of the wanted images. Each shard is read once, and only up to its last wanted image."""
    by_shard: dict[str, dict[str, NearThreshold]] = {}
    for near in wanted:
        by_shard.setdefault(near.shard, {})[near.key] = near
    drawn: Images = {}
    for shard in corpus.shards() if by_shard else ():
        left = by_shard.pop(shard.name, {})
        if not left:
            continue
        try:
            for entry in entries(shard, image_column=image_column):
                if entry.data is not None and entry.key in left:
                    drawn[left.pop(entry.key)] = _thumbnail(entry.data, entry.where)
                    if not left:
                        break
        except Broken:
            pass
        if not by_shard:
            break
    return drawn


def _thumbnail(data: bytes, where: str) -> str:
    image = decode(data, where)
    image.thumbnail((EDGE * 2, EDGE * 2))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"


def page(made: Filtered, level: Level, projected: Projection | None, images: Images) -> Html:
    """The complete page."""
    tally = made.tally
    kept = share(tally.kept, tally.judged)
    measured = agreement(tally)
    said = f"{percent(kept.value)} of {tally.judged:,} images kept" if tally.judged else "No image was judged"
    parts = [
        headline(said, f"{level.name}: {made.config['question']}", _about(made)),
        section("share", "Kept share", _shares(kept, level, tally), _share_words(kept, level)),
        section("histogram", "p(yes)", _histogram(tally, float(made.config["threshold"])), _little(tally)),
        section("threshold", "Around the threshold", _near(tally, images)),
    ]
    if measured is not None:
        parts.append(section("agreement", "Agreement with the labels", _agreement(measured, tally, made)))
    parts.append(section("faults", "What could not be judged", _faults(tally)))
    if projected is not None:
        parts.append(section("throughput", "Throughput", listed(projected.lines(), "words")))
    css = Html(read_text(ASSETS / "site.css")) + STYLE
    return Html(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="{}">\n<title>{}: {}</title>\n'
        '<link rel="icon" href="data:,">\n<style>\n{}</style>\n</head>\n<body>\n<main id="main">\n{}\n</main>\n'
        "<footer><p>Made by <code>mllm-eval filter</code> from its decisions; the published share alone is quoted."
        "</p></footer>\n</body>\n</html>\n"
    ).format(POLICY, said, level.name, css, Html("\n").join(parts))


def percent(value: float | None) -> str:
    """A share in percent; with two decimals below 10 %, else one."""
    if value is None:
        return "-"
    return f"{100 * value:.2f} %" if 0 < value < 0.1 else f"{100 * value:.1f} %"


def interval(share: Proportion) -> str:
    """The 95 % interval of a share."""
    return "-" if share.value is None else f"[{percent(share.low)}, {percent(share.high)}]"


def _about(made: Filtered) -> Html:
    about, config = made.about, made.config
    whole = "whole words" if about.get("whole_words", True) else "first pieces of words"
    return facts(
        [
            ("model", str(config["model"])),
            ("kept from", f"p(yes) {config['threshold']:g}"),
            ("yes", ", ".join(map(repr, about.get("yes", ())))),
            ("no", f"{', '.join(map(repr, about.get('no', ())))} ({whole} of its vocabulary)"),
            ("shards", f"{made.shards:,}"),
        ]
    )


def _shares(kept: Proportion, level: Level, tally: Tally) -> Html:
    rows = [("this corpus", percent(kept.value), interval(kept), f"{tally.kept:,} of {tally.judged:,}")]
    if level.published is not None:
        rows.append((level.published.source, percent(level.published.share), "", ""))
    head = (("", False), ("kept", True), ("95 %", True), ("images", True))
    wilson = (
        "The interval is Wilson's, of images drawn at random; images of one page or site are alike, and it is wider."
    )
    return sheet("shares", "Share of the images that the filter keeps", head, rows, wilson)


def _share_words(kept: Proportion, level: Level) -> str:
    if level.published is None or kept.value is None:
        return ""
    said = level.published.share
    if kept.low <= said <= kept.high:
        return "The published share lies within the interval."
    side = "more" if kept.value > said else "fewer"
    return f"This corpus, with this model, keeps {side} than was published of another corpus and model."


def _little(tally: Tally) -> str:
    if not tally.little:
        return ""
    return (f"Of {tally.little:,} images ({percent(tally.little / tally.judged)}) less than half of the first token's "
            "probability is yes or no.")  # fmt: skip


def _histogram(tally: Tally, threshold: float) -> Html:
    def draw() -> Figure:
        figure = new_figure(9.6, 2.6)
        axes = figure.subplots()
        bare(axes, "y")
        width = 2
        counts = [sum(tally.bins[at : at + width]) for at in range(0, BINS, width)]
        places = [(at + width / 2) / BINS for at in range(0, BINS, width)]
        colours = [HUES[0] if place >= threshold else HUES[7] for place in places]
        axes.bar(places, counts, width / BINS * 0.9, color=colours)
        axes.axvline(threshold, color=INK, linewidth=1, linestyle=(0, (3, 2)))
        axes.set_xlim(0, 1)
        axes.set_xlabel("p(yes)")
        axes.set_ylabel("images")
        return figure

    alt = f"Histogram of p(yes) over {tally.judged:,} images; threshold {threshold:g}"
    return _drawn("p-yes", draw, alt, "Images by p(yes). Blue: kept; the dashed line is the threshold.")


def _drawn(name: str, draw: Draw, alt: str, caption: str) -> Html:
    try:
        return inline_figure(name, draw, alt, caption)
    except UserError as problem:
        if str(problem) != LACKING:
            raise
        return note(LACKING)


def _near(tally: Tally, images: Images) -> Html:
    rows = []
    for heading, near in (("Kept, the least sure first", tally.near_kept), ("Dropped, the nearest first",
                                                                           tally.near_dropped)):  # fmt: skip
        cells = NOTHING.join(_picture(one, images.get(one)) for one in near) or note("None.")
        rows.append(Html('<h3>{}</h3><div class="shown">{}</div>').format(heading, cells))
    return NOTHING.join(rows)


def _picture(near: NearThreshold, image: str | None) -> Html:
    shown = Html('<span class="gone"></span>')
    if image is not None:
        shown = Html('<img src="{}" alt="{}" loading="lazy">').format(image, near.key)
    return Html(
        "<figure>{}<figcaption><b>{:.3f}</b> {}<br>{}</figcaption></figure>"
    ).format(shown, near.p_yes, near.key, near.shard)  # fmt: skip


def _agreement(measured: Agreement, tally: Tally, made: Filtered) -> Html:
    head: Sequence[tuple[str, bool]] = (("", False), ("labelled yes", True), ("labelled no", True))
    rows = [
        ("kept", f"{tally.right_kept:,}", f"{tally.wrong_kept:,}"),
        ("dropped", f"{tally.wrong_dropped:,}", f"{tally.right_dropped:,}"),
    ]
    counts = sheet("confusion", f"Decisions against the label {made.config.get('label')!r}", head, rows)
    values = [(name, percent(one.value), interval(one), f"{one.of:,}") for name, one in (
        ("precision", measured.precision), ("recall", measured.recall), ("accuracy", measured.accuracy),
        ("labelled yes", measured.true))]  # fmt: skip
    values.append(("calibration error", f"{measured.error:.3f}", "", f"{measured.true.of:,}"))
    values.append(
        ("area under ROC", "-" if measured.area is None else f"{measured.area:.3f}", "", f"{measured.true.of:,}")
    )
    head = (("", False), ("value", True), ("95 %", True), ("of", True))
    numbers = sheet("agreement-values", "Agreement", head, values)
    head = (("p(yes)", False), ("mean", True), ("labelled yes", True), ("95 %", True), ("images", True))
    tenths = [(f"{one.low:.1f} to {one.high:.1f}", f"{one.p_yes:.3f}", percent(one.true.value), interval(one.true),
               f"{one.true.of:,}") for one in measured.tenths]  # fmt: skip
    return counts + numbers + _calibration(measured, tally) + sheet("tenths", "Calibration", head, tenths)


def _calibration(measured: Agreement, tally: Tally) -> Html:
    def draw() -> Figure:
        figure = new_figure(9.6, 2.9)
        axes, beside = figure.subplots(1, 2, width_ratios=(1, 2.2))
        bare(axes, "y")
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (3, 2)))
        places = [one.p_yes for one in measured.tenths]
        axes.vlines(places, [one.true.low for one in measured.tenths], [one.true.high for one in measured.tenths],
                    color=HUES[0], linewidth=1.2)  # fmt: skip
        axes.plot(places, [one.true.value or 0.0 for one in measured.tenths], "o", color=HUES[0], markersize=4.5)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xlabel("mean p(yes) of a tenth")
        axes.set_ylabel("labelled yes")
        bare(beside, "y")
        width = 2
        steps = range(0, BINS, width)
        middle = [(at + width / 2) / BINS for at in steps]
        true = [sum(tally.true[at : at + width]) for at in steps]
        false = [sum(tally.labelled[at : at + width]) - yes for at, yes in zip(steps, true, strict=True)]
        beside.bar(middle, true, width / BINS * 0.9, color=HUES[0], label="labelled yes")
        beside.bar(middle, [-one for one in false], width / BINS * 0.9, color=HUES[1], label="labelled no")
        beside.set_xlim(0, 1)
        beside.set_xlabel("p(yes)")
        beside.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
        beside.legend(frameon=False, loc="upper center", ncols=2)
        return figure

    alt = "Left: share labelled yes against p(yes). Right: p(yes) by label"
    caption = (
        "Left: on the dashed line p(yes) is the share of images that are labelled yes; bars are 95 % intervals. "
        "Right: images labelled yes stand above the line, those labelled no below."
    )
    return _drawn("calibration", draw, alt, caption)


def _faults(tally: Tally) -> Html:
    if not tally.faults:
        return Html("<p>Nothing: every image was judged, every shard ends as it should.</p>")
    counts = Html("<p>{:,} of {:,} images failed; they count as neither kept nor dropped.</p>")
    parts = [counts.format(tally.failed, tally.judged + tally.failed)]
    for kind, fault in sorted(tally.faults.items()):
        left = fault.count - len(fault.first)
        more = note(f"and {left:,} more" if left > 0 else "")
        parts.append(opened(f"{fault.count:,} {FAULTS.get(kind, kind)}", joined(listed(fault.first), more)))
    return NOTHING.join(parts)
