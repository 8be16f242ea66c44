"""`mllm-eval features`: lists, checks and cleans the stores of image features."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mllm_eval.console import say

if TYPE_CHECKING:
    from mllm_eval.features.upkeep import Store, Waste

EXAMPLES = """
List, check and clean stored features. Each image is encoded once per encoder; runs read its features from
results/features.

\b
  mllm-eval features ls                    list the stores: encoder, images, size, last use
  mllm-eval features verify                compare every row with its checksum; drop damaged rows
  mllm-eval features gc --dry-run          say what could be removed: remains of crashes, unused stores
  mllm-eval features gc                    remove it; asks first

All stores together take at most $MLLM_EVAL_FEATURES_BYTES (`200GB`, `1.5TB`; 0 keeps nothing), by default half of
the space that the disk would have free without them. When they are full, the features used longest ago are removed
first, except those that a running command reads. Removing features changes no result: they are computed again when
a run needs them.
"""

features = typer.Typer(
    no_args_is_help=True,
    help=EXAMPLES,
    short_help="list, check and clean stored image features: ls, verify, gc",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)
Stores = Annotated[list[str] | None, typer.Argument(help="encoders, or stores as `ls` names them; default: all")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object per line")]


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(features, name="features")


@features.command("ls", short_help="list the stores: encoder, images, size, last use")
def ls(stores: Stores = None, as_json: AsJson = False) -> None:
    """List the stores of features with encoder, preprocessing, layer, dtype, number of images, size and last use.

    `orphan`: neither an encoder of the catalog nor a saved run would read this store; `mllm-eval features gc` removes
    it. `in use`: a running command reads or writes it.

    \b
      mllm-eval features ls
      mllm-eval features ls mini-dino --json
    """
    selected = _chosen(stores)
    if as_json:
        _print_json(asdict(store) for store in selected)
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from mllm_eval.cli.listing import PIPED_WIDTH
    from mllm_eval.console import console as make_console
    from mllm_eval.features.eviction import bound, features_root

    console = make_console(highlight=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    if not selected:
        say(f"no features under {features_root()}; `mllm-eval eval` makes them")
        return
    sheet = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("store", "encoder", "pixels", "layer", "dtype", "images", "MB", "last used", ""):
        right = name in ("layer", "images", "MB")
        sheet.add_column(
            name,
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=name != "encoder",
            min_width=11 if name == "encoder" else 2,
        )
    for store in selected:
        sheet.add_row(*_cells(store))
    console.print(sheet)
    root = features_root()
    used = sum(store.bytes for store in selected)
    if not stores:
        console.print(f"{used / 1e6:,.0f} MB of at most {bound(root) / 1e6:,.0f} MB ({root})", soft_wrap=True)


def _cells(store: Store) -> list[str]:
    pixels = store.preprocessing or {}
    owners = ", ".join(store.owners or ()) or store.encoder or "?"
    state = "orphan" if store.orphaned else "in use" if store.held else ""
    used = datetime.fromtimestamp(store.last_used).strftime("%Y-%m-%d") if store.last_used else "never"
    size = f"{pixels.get('mode', '?')} {pixels.get('size', '?')}"
    dtype = (store.dtype or "?").replace("bfloat", "bf").replace("float", "fp")
    layer = "?" if store.layer is None else str(store.layer)
    # Commands accept the beginning of a store's name, and eight digits tell stores apart.
    facts = [store.store[:8], owners, size, layer, dtype]
    return [*facts, f"{store.images:,}", f"{store.bytes / 1e6:,.0f}", used, state]


@features.command(short_help="check all rows, drop damaged ones")
def verify(stores: Stores = None, as_json: AsJson = False) -> None:
    """Read every stored row and compare it with its checksum. Damaged rows are listed and dropped.

    The next run that needs such an image encodes it again. The exit code is 1 if any row was damaged.

    \b
      mllm-eval features verify
      mllm-eval features verify mini-dino
    """
    from mllm_eval.cli.display import display
    from mllm_eval.features.eviction import features_root
    from mllm_eval.features.verifying import verify as check

    damaged = 0
    reporter = display()
    for store in _chosen(stores):
        title = f"verify {store.store}, {store.encoder or '?'}, {store.images:,} images"
        with reporter.step(title) as progress:
            for damage in check(features_root(), store, lambda done, whole=store.rows: progress(done, whole)):  # type: ignore[misc]
                damaged += max(1, damage.entries)
                if as_json:
                    _print_json([asdict(damage)])
                elif damage.row < 0:
                    say(f"{damage.store}/{damage.shard}: {damage.entries} lines of the index are damaged, left out")
                else:
                    say(f"{damage.store}/{damage.shard}, row {damage.row}: image {damage.image} is damaged, dropped")
    if not as_json:
        say(f"{damaged} damaged" if damaged else "all whole")
    raise typer.Exit(1 if damaged else 0)


@features.command(short_help="remove what no run will read")
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only list what would be removed")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="remove orphaned stores without asking")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove stored features that no run will read, and merge small shards.

    Removed are files that a crash cut short, rows that were dropped or stored twice, and orphaned stores: those whose
    encoder is neither in the catalog nor in a saved run. Before it removes orphaned stores the command asks; without a
    terminal it keeps them unless --yes is given. Stores that a running command uses are skipped.

    \b
      mllm-eval features gc --dry-run                      only list it
      mllm-eval features gc --yes                          remove it without asking
    """
    import sys

    from mllm_eval.features.eviction import features_root
    from mllm_eval.features.upkeep import collect

    root = features_root()
    removable = list(collect(root, remove_them=False))
    orphans = [waste for waste in removable if waste.kind == "orphaned"]
    if not dry_run:
        asked = bool(orphans) and not yes
        if asked and not as_json:
            _tell(orphans)
        agreed = not asked or (sys.stdin.isatty() and typer.confirm("remove these stores?"))
        if orphans and not agreed:
            say("orphaned stores stay; --yes removes them", file=sys.stderr)
        removable = list(collect(root, remove_them=True, orphans=agreed))
    if as_json:
        _print_json(asdict(waste) for waste in removable)
        return
    _tell(removable)
    freed = sum(waste.size for waste in removable)
    if not removable:
        say("nothing to remove")
    else:
        say(f"{freed / 1e6:,.1f} MB {'would be' if dry_run else 'are'} free again")


def _tell(removable: list[Waste]) -> None:
    said = {
        "cut off": "{0} files or ends of files that a crash or an older version left",
        "superseded": "{0} rows that were dropped or are there twice",
        "orphaned": "{0} images of an encoder that neither the catalog nor a run has",
        "scattered": "{0} small shards made into larger ones",
    }
    for waste in removable:
        say(f"{waste.store}: {said[waste.kind].format(f'{waste.count:,}')}, {waste.size / 1e6:,.1f} MB")


def _chosen(asked: list[str] | None) -> list[Store]:
    from mllm_eval.features.eviction import features_root
    from mllm_eval.features.upkeep import chosen, read_stores

    return chosen(read_stores(features_root()), asked or [])


def _print_json(records: Any) -> None:
    import json

    for one in records:
        say(json.dumps(one, ensure_ascii=False))
