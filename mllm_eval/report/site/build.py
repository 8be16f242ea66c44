"""Writes the report site."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from mllm_eval.errors import UserError
from mllm_eval.html import Html
from mllm_eval.progress import Progress, unheard
from mllm_eval.report.site.comparing import compare_data, compare_page
from mllm_eval.report.site.contents import Evidence, gather
from mllm_eval.report.site.datafiles import write_data
from mllm_eval.report.site.leakspage import FILE, found_leaks, leaks_page
from mllm_eval.report.site.markup import page
from mllm_eval.report.site.overview import overview, scaling_page
from mllm_eval.report.site.runpage import run_page
from mllm_eval.report.site.samplepages import write_samples
from mllm_eval.report.site.vision import FILE as VISION
from mllm_eval.report.site.vision import vision_page
from mllm_eval.results import RunRecord
from mllm_eval.storage import write_atomic

ASSETS = Path(__file__).parent / "assets"
MARK = "assets/site.css"
COMPARED = "compare.html"
"""The page that only a report with runs has: a report of published rows alone lacks it."""


def write_report(
    records: Sequence[RunRecord],
    out: Path,
    rules: str = "cambrian",
    images: bool = True,
    asked: bool = True,
    progress: Progress = unheard,
    unreadable: Sequence[str] = (),
) -> Path:
    """Writes the report site of these runs to the folder `out`, and returns it. Thumbnails that exist there are kept.

    Args:
        records: the runs. Without `asked`, only those of one recipe are shown; the page names the others.
        rules: the rule set of tables and tests. Other rule sets are shown with each sample.
        images: also write a thumbnail of each image.
        asked: whether the caller named these runs.
        unreadable: sentences on runs that can't be read, to be shown on the page.

    Raises:
        UserError: nothing scored by these rules, runs on different data, or `out` holds other files. In these cases the
            contents of `out` do not change.
    """
    out = Path(out)
    held = {path.name for path in out.iterdir()} if out.is_dir() else set()
    # A report that was killed during its first build leaves only `.new` and `thumbs`, without the stylesheet.
    if not ((out / MARK).is_file() or ".new" in held or held <= {"thumbs"}):
        raise UserError(f"{out}: holds other files; give an empty folder, or that of an earlier report")
    evidence = gather(records, rules, asked)
    evidence = replace(evidence, left_out=(*evidence.left_out, *unreadable))
    if not evidence.entries and (out / COMPARED).is_file():
        left_out = " ".join(evidence.left_out)
        raise UserError(f"{out}: no scored run to show in place of the report that is there; it stays. {left_out}")
    with _beside(out) as new:
        for asset in sorted(ASSETS.iterdir()):
            if asset.suffix in (".css", ".js"):
                write_atomic(new / "assets" / asset.name, asset.read_bytes())
        problems: list[str] = []
        about = write_samples(evidence, new, images, progress, problems)
        _write_pages(evidence, new, problems, about)
    return out


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A folder to build a site in, which replaces the one in `out` once it is complete.

    Thumbnails are named by their content, so old and new site share them.
    """
    new, thumbs = out / ".new", out / "thumbs"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    thumbs.mkdir(exist_ok=True)
    (new / "thumbs").symlink_to(thumbs.absolute())
    try:
        yield new
        (new / "thumbs").unlink()
        # Pages of runs that this report does not show must not remain.
        for old in [*(out / part for part in ("data", "figures", "assets")), *out.glob("*.html")]:
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        for path in new.iterdir():
            path.replace(out / path.name)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        with suppress(OSError):
            thumbs.rmdir()


def _write_pages(evidence: Evidence, out: Path, problems: list[str], about: list[dict[str, Any]]) -> None:
    nav = [("index.html", "Overview")]
    if evidence.entries:
        nav.append((COMPARED, "Compare"))
    nav.append(("scaling.html", "Scaling"))
    leaks = found_leaks(evidence, problems)
    if leaks.any:
        nav.append((FILE, "Leaks"))
    vision = vision_page(evidence, out)
    if vision:
        nav.append((VISION, "Vision"))
    # The navigation lists six runs; the table links to the pages of all.
    runs = [(f"run-{run.scored.record.hash}.html", run.label) for run in evidence.seeing[:6]]
    by = f"; protocols {', '.join(_protocols(evidence))}" if evidence.entries else ""
    foot = Html(
        "<p>Rules {}{}. Made by <code>mllm-eval report</code> from files; no number here was typed.</p>"
    ).format(evidence.rules, by)  # fmt: skip

    def write(file: str, title: str, body: Html, scripts: Sequence[str] = ()) -> None:
        write_atomic(out / file, page(title, file, body, nav, runs, scripts, foot))

    write("index.html", "Vision encoders compared", overview(evidence, out, problems), ["table"])
    write("scaling.html", "Score against size", scaling_page(evidence, out))
    if leaks.any:
        write(FILE, "Leaks", leaks_page(evidence, leaks, out))
    if vision:
        write(VISION, "Classic vision and alignment", vision)
    for run in evidence.seeing:
        write(f"run-{run.scored.record.hash}.html", f"{run.label}, run", run_page(run, out))
    if evidence.entries:
        write_data(out, "compare", compare_data(evidence, about))
        write(COMPARED, "Two runs compared", compare_page(evidence), ["samples", "compare"])


def _protocols(evidence: Evidence) -> list[str]:
    first = evidence.entries[0].scored
    versions = {str(one["protocol"]).rpartition(".")[2] for one in first.summaries.values()}
    return sorted(f"{evidence.rules}.{version}" for version in versions)
