"""Writes the kept images of a shard as a shard of their own, with unchanged bytes. No torch."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from mllm_eval.data.parquet import open_parquet
from mllm_eval.data.shards import Broken, is_picture
from mllm_eval.errors import UserError
from mllm_eval.filtering.corpus import Shard, archived
from mllm_eval.filtering.reading import keyed_members
from mllm_eval.storage import replacing


def write_kept(shard: Shard, kept: bytearray, path: Path) -> None:
    """Writes the images of a shard for which `kept`, in the order of `entries`, is not 0.

    A tar becomes a tar, with the other files of each kept key but not its failed images. A folder of image files
    becomes a tar too; see `archived`. Parquet stays parquet with all columns. The source is read again, so that none of
    it has to be held in memory.
    """
    if shard.kind == "parquet":
        _rows(shard, kept, path)
    else:
        _members(shard, kept, path)


def _members(shard: Shard, kept: bytearray, path: Path) -> None:
    with replacing(path) as file, tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for name, data in _kept_members(shard, kept):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def _kept_members(shard: Shard, kept: bytearray) -> Iterator[tuple[str, bytes]]:
    place = 0
    try:
        for members, count in keyed_members(shard):
            own = kept[place : place + count]
            if any(own):
                decided = iter(own)
                for one in members:
                    keeps = next(decided, 0) if is_picture(one.name) else 1
                    if keeps and one.data is not None:
                        yield (archived(one.name) if shard.kind == "files" else one.name), one.data
            place += count
    except Broken:
        # Already counted as a fault when the shard was judged; the readable part is written.
        return


def _rows(shard: Shard, kept: bytearray, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with replacing(path) as file:
        try:
            source = open_parquet(Path(shard.path))
        except UserError:
            # Already counted as a fault when the shard was judged; an empty shard takes its place.
            pq.write_table(pa.table({}), file)
            return
        with pq.ParquetWriter(file, source.schema_arrow) as writer:
            place, batches = 0, source.iter_batches(batch_size=64)
            # A damaged file is read only as far as it was judged.
            while place < len(kept) and (batch := next(batches, None)) is not None:
                mask = [bool(one) for one in kept[place : place + len(batch)]]
                mask += [False] * (len(batch) - len(mask))
                place += len(batch)
                if any(mask):
                    writer.write_batch(batch.filter(pa.array(mask)))
