"""Record the content of a run's training data, and refuse to continue the run with other content.

The run's hash covers the names of the conversation files but not their content. Without this check, a run could be
resumed on, or compared as if trained on, other data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mllm_eval.errors import UserError
from mllm_eval.run import Run
from mllm_eval.storage import known_sha256, locate


def hold_to_its_data(run: Run) -> None:
    """Record the content of the recipe's conversation files, and after the first training step refuse other content.

    Before the first step, a file may still be changed. Missing files are ignored, as a trained run can be evaluated
    without them. Runs that began under a version that did not record contents are not checked.

    Raises:
        UserError: a file differs from the one that the run was trained on.
    """
    noted = run.manifest().get("trained_on")
    if not _begun(run):
        if noted != (now := _contents(run)):
            run.note_training_data(now)
        return
    if noted is None:
        return
    for ref, now in _contents(run).items():
        before = noted.get(ref, now)
        if before != now:
            raise UserError(
                f"{locate(ref)}: {_named(now)} now, but {run.folder} was trained on {_named(before)}; restore the "
                "file, or delete that folder to train anew"
            )


def _begun(run: Run) -> bool:
    """Whether any training step was done, by the stages' logs, checkpoints and results."""
    stages = [run.stage_dir(stage) for stage in (1, 2)]
    results = [run.checkpoint, *(stage / "projector.safetensors" for stage in stages)]
    logs = [stage / "log.jsonl" for stage in stages]
    kept = [path for stage in stages for path in stage.glob("checkpoints/checkpoint-*")]
    return bool(kept) or any(path.exists() for path in results) or any(_holds_something(path) for path in logs)


def _holds_something(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _contents(run: Run) -> dict[str, dict[str, Any]]:
    refs = [data.path for stage in (run.recipe.stage1, run.recipe.stage2) for data in stage.data]
    paths = {ref: locate(ref) for ref in refs}
    return {
        ref: {"size": path.stat().st_size, "sha256": known_sha256(path)}
        for ref, path in paths.items()
        if path.is_file()
    }


def _named(content: dict[str, Any]) -> str:
    return f"{content['size']:,} bytes of SHA-256 {content['sha256'][:12]}"
