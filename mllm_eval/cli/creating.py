"""`mllm-eval new`: writes the yaml file of a new encoder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from mllm_eval.cli.guard import Guarded
from mllm_eval.console import say

app = typer.Typer(cls=Guarded, short_help="write the yaml of a new encoder from its weights", no_args_is_help=True)


@app.callback()
def _only_a_group() -> None:
    """Write files that describe something new, so that you need not write them by hand.

    \b
      mllm-eval new encoder /models/my-dinov2
    """


@app.command("encoder", short_help="write an encoder's yaml from its config and processor")
def encoder(
    source: Annotated[str, typer.Argument(help="a folder in the hub's format, or owner/name[@revision] of the hub")],
    name: Annotated[str | None, typer.Option(help="of the encoder; default: that of the folder or repository")] = None,
    to: Annotated[Path | None, typer.Option(help="file to write; default: configs/encoders/NAME.yaml")] = None,
    mean: Annotated[str | None, typer.Option(help="of pixels, if no processor has it: 0.5,0.5,0.5")] = None,
    std: Annotated[str | None, typer.Option(help="of pixels, if no processor has it: 0.5,0.5,0.5")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="download nothing, use the hub's cache")] = False,
) -> None:
    """Write the yaml of an encoder from its config and its image processor, check it, and list what is left to decide.

    A repository of the hub is downloaded and locked, and the yaml names its commit.

    \b
      mllm-eval new encoder /models/my-dinov2                              from a folder
      mllm-eval new encoder facebook/dinov2-small --name my-dinov2-small   from the hub
    """
    from mllm_eval.cli.checking import check_encoders
    from mllm_eval.environment import before_torch
    from mllm_eval.errors import UserError

    before_torch()
    from mllm_eval.adapters.describing import describe

    place, weights, stem = _weights_of(source, offline)
    own = name or stem
    if not re.fullmatch(r"[\w.-]+", own):
        raise UserError(f"name {own!r}: use letters, digits, dots, hyphens and underscores")
    path = to or Path("configs") / "encoders" / f"{own}.yaml"
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"{path}: name a .yaml file to write")
    if path.exists():
        raise UserError(f"{path}: is there already; name another with --to or --name, or delete it")
    made = describe(place, own, weights, _numbers(mean, "--mean"), _numbers(std, "--std"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(made.text, encoding="utf-8")
    say(f"{path}: written")
    say(made.text, end="")
    right = check_encoders(str(path))
    say("left to decide:", *made.decide, sep="\n  ")
    raise typer.Exit(0 if right else 2)


def _weights_of(source: str, offline: bool) -> tuple[Path, dict[str, str], str]:
    """Return the folder of the weights, the yaml's `weights` field, and a default name for the encoder.

    Downloads and locks a repository of the hub. Raises UserError if `source` is neither a folder nor owner/name.
    """
    from mllm_eval.cli.display import display
    from mllm_eval.errors import UserError
    from mllm_eval.hub import Source
    from mllm_eval.pipeline.provision import Whole, provide_weights

    place = Path(source).expanduser()
    if place.exists():
        return place, {"path": str(place.resolve())}, place.resolve().name
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w.-]+)?", source) or source.startswith((".", "/")):
        raise UserError(f"{source}: no such folder, and no owner/name of the hub")
    asked = Source.of_model(source)
    repo = asked.repo
    (provided,) = provide_weights([Whole.of(source)], offline, reporter=display())
    commit = provided.lock.revision_found if provided.lock is not None else None
    if commit is None or commit == asked.revision:
        return provided.place, {"repo": repo, **({"revision": commit} if commit else {})}, repo.rpartition("/")[2]
    # The yaml names the commit, so the lock must name it as well; so far only the branch is locked.
    (provided,) = provide_weights([Whole.of(f"{repo}@{commit}")], offline, reporter=display())
    return provided.place, {"repo": repo, "revision": commit}, repo.rpartition("/")[2]


def _numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    from mllm_eval.errors import UserError

    if text is None:
        return None
    try:
        numbers = tuple(float(one) for one in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 3:
        raise UserError(f"{option} {text!r}: write three numbers with commas, such as 0.5,0.5,0.5")
    return numbers
