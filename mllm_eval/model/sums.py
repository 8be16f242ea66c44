"""Which files a folder of weights has, and their checksums: `files.json`, written last."""

from __future__ import annotations

import json
from pathlib import Path

from mllm_eval.storage import write_json

FILE = "files.json"
PIECE = 2**24
Sums = dict[str, tuple[int, str]]
"""Name below the folder -> size in bytes, and XXH3 (128 bits, in hex); an empty one is not compared."""


def _sum(path: Path) -> str:
    from xxhash import xxh3_128  # as fast as memory: a checkpoint of a large LLM is 100 GB

    digest = xxh3_128()
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _files(folder: Path) -> dict[str, Path]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != FILE)
    return {path.relative_to(folder).as_posix(): path for path in paths}


def write(folder: Path) -> None:
    """Say that a folder is whole as it is now. Raises NotWritten where the system refuses."""
    write_json(folder / FILE, {name: [path.stat().st_size, _sum(path)] for name, path in _files(folder).items()})


def read(folder: Path) -> Sums | None:
    """What was said of a folder; None where nothing was, or a crash left half of it."""
    try:
        noted = json.loads((folder / FILE).read_bytes())
        # Earlier versions wrote sizes alone.
        return {name: (one, "") if isinstance(one, int) else (int(one[0]), str(one[1])) for name, one in noted.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def differing(folder: Path, expected: Sums) -> list[str]:
    """The files that are missing, too many, or not as they were said to be, in alphabetical order."""
    here = _files(folder)
    names = set(here.keys() ^ expected.keys())
    for name in here.keys() & expected.keys():
        size, digest = expected[name]
        if here[name].stat().st_size != size or (digest and _sum(here[name]) != digest):
            names.add(name)
    return sorted(names)
