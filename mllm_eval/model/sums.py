"""Record the files of a weights folder and their checksums in `files.json`, which is written last."""

from __future__ import annotations

import json
from pathlib import Path

from mllm_eval.storage import write_json

FILE = "files.json"
PIECE = 2**24
Sums = dict[str, tuple[int, str]]
"""Path relative to the folder -> size in bytes and XXH3 (128 bits, in hex); an empty checksum is not compared."""


def file_sum(path: Path) -> str:
    """Return the XXH3 (128 bits, in hex) of a file."""
    from xxhash import xxh3_128  # fast enough for checkpoints of 100 GB

    digest = xxh3_128()
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _files(folder: Path) -> dict[str, Path]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != FILE)
    return {path.relative_to(folder).as_posix(): path for path in paths}


def write(folder: Path) -> None:
    """Record the folder's present files as complete. Raises NotWritten where the system can't write."""
    write_json(folder / FILE, {name: [path.stat().st_size, file_sum(path)] for name, path in _files(folder).items()})


def read(folder: Path) -> Sums | None:
    """Return the recorded files of a folder; None if the record is missing or incomplete."""
    try:
        noted = json.loads((folder / FILE).read_bytes())
        # Earlier versions recorded sizes only.
        return {name: (one, "") if isinstance(one, int) else (int(one[0]), str(one[1])) for name, one in noted.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def differing(folder: Path, expected: Sums) -> list[str]:
    """Return the files that are missing, unexpected, or differ from their record, in alphabetical order."""
    here = _files(folder)
    names = set(here.keys() ^ expected.keys())
    for name in here.keys() & expected.keys():
        size, digest = expected[name]
        if here[name].stat().st_size != size or (digest and file_sum(here[name]) != digest):
            names.add(name)
    return sorted(names)
