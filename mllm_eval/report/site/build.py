"""The one call that writes the site."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from mllm_eval.errors import UserError
from mllm_eval.report.site.comparing import compare_data, compare_page
from mllm_eval.report.site.evidence import Evidence, gather
from mllm_eval.report.site.files import write_data
from mllm_eval.report.site.markup import page
from mllm_eval.report.site.overview import overview, scaling_page
from mllm_eval.report.site.runpage import run_page
from mllm_eval.report.site.samples import write_samples
from mllm_eval.storage import write_atomic

ASSETS = Path(__file__).parent / "assets"
MARK = "assets/site.css"


def write_report(
    folders: Sequence[Path],
    out: Path,
    rules: str = "cambrian",
    images: bool = True,
    asked: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write the site of these runs to the folder `out`, and return it. Thumbnails that are there are kept.

    Args:
        folders: run folders; without `asked`, those of one recipe are taken and the others named on the page.
        rules: the rule set of tables and tests; the others show with each sample.
        images: also write a thumbnail of every image.

    Raises:
        UserError: nothing scored by these rules, runs on different data, or `out` holds something else.
    """
    out = Path(out)
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file():
        raise UserError(f"{out}: holds other files; give an empty folder, or that of an earlier report")
    evidence = gather(folders, rules, asked)
    # What an earlier report had of other runs must not stay; thumbnails go by content and may.
    for part in ("data", "figures", "assets"):
        shutil.rmtree(out / part, ignore_errors=True)
    for old in out.glob("run-*.html"):
        old.unlink()
    for asset in sorted(ASSETS.iterdir()):
        if asset.suffix in (".css", ".js"):
            write_atomic(out / "assets" / asset.name, asset.read_bytes())
    problems: list[str] = []
    about = write_samples(evidence, out, images, progress, problems)
    _write_pages(evidence, out, problems, about)
    return out


def _write_pages(evidence: Evidence, out: Path, problems: list[str], about: list[dict[str, Any]]) -> None:
    nav = [("index.html", "Overview")]
    if evidence.entries:
        nav.append(("compare.html", "Compare"))
    nav.append(("scaling.html", "Scaling"))
    # More are reached from the table.
    runs = [(f"run-{run.scored.record.hash}.html", run.label) for run in evidence.seeing[:6]]
    foot = (
        f"<p>Rules {escape(evidence.rules)}"
        + (f"; protocols {escape(', '.join(_protocols(evidence)))}" if evidence.entries else "")
        + ". Made by <code>mllm-eval report</code> from files; no number here was typed.</p>"
    )

    def write(file: str, title: str, body: str, scripts: Sequence[str] = ()) -> None:
        write_atomic(out / file, page(title, file, body, nav, runs, scripts, foot))

    write("index.html", "Vision encoders compared", overview(evidence, out, problems), ["table"])
    write("scaling.html", "Score against size", scaling_page(evidence, out))
    for run in evidence.seeing:
        write(f"run-{run.scored.record.hash}.html", f"{run.label}, run", run_page(run, out))
    if evidence.entries:
        write_data(out, "compare", compare_data(evidence, about))
        write("compare.html", "Two runs compared", compare_page(evidence), ["samples", "compare"])


def _protocols(evidence: Evidence) -> list[str]:
    first = evidence.entries[0].scored
    versions = {str(one["protocol"]).rpartition(".")[2] for one in first.summaries.values()}
    return sorted(f"{evidence.rules}.{version}" for version in versions)
