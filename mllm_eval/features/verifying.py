"""Compare every row of a feature store with its checksum."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mllm_eval.features import storeshards as files
from mllm_eval.features.upkeep import Store, read_shards


@dataclass(frozen=True)
class Damage:
    """A row that was dropped for its wrong checksum; or, with row -1, a number of invalid index lines (`entries`)."""

    store: str
    shard: str
    row: int
    image: str
    entries: int = 0


def verify(root: Path, store: Store, progress: Callable[[int], None] = lambda done: None) -> Iterator[Damage]:
    """Read every row of a store, and yield and drop damaged rows, so that they are computed again when needed.

    `progress` receives the number of rows read. The store's time of last use does not change.
    """
    done = 0
    for path, shard in read_shards(root / store.store).items():
        broken = 1 if shard is None else int((~shard.good & (shard.lines["image"] != files.DROPPED[:64])).sum())
        if broken:
            yield Damage(store.store, path.stem, -1, "", entries=broken)
        for row, image, data in shard.rows() if shard else ():
            if data is None:
                files.drop_line(path, row)
                yield Damage(store.store, path.stem, row, image)
            done += 1
            progress(done)
