"""Every row of a feature store against its checksum."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mllm_eval.features import storeshards as files
from mllm_eval.features.upkeep import Store, read_shards


@dataclass(frozen=True)
class Damage:
    """A row whose checksum was wrong, which is dropped, or (row -1) lines of an index that are none."""

    store: str
    shard: str
    row: int
    image: str
    entries: int = 0


def verify(root: Path, store: Store, progress: Callable[[int], None] = lambda done: None) -> Iterator[Damage]:
    """Read every row of a store; what is damaged is dropped, so that it is computed again when it is needed.

    `progress` gets the rows read. When a store was last used does not change.
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
