"""Arrays on disk, written atomically, one file per piece of work."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mllm_eval.errors import UserError
from mllm_eval.storage import write_atomic


def save(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes named arrays (.npz), or the only array (.npy), atomically."""
    data = io.BytesIO()
    if path.suffix == ".npy":
        np.save(data, next(iter(arrays.values())))
    else:
        np.savez(data, **arrays)  # type: ignore[arg-type,unused-ignore]
    write_atomic(path, data.getvalue())


def saved(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz file that `save` wrote. Raises UserError for a damaged file."""
    try:
        with np.load(path) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, KeyError) as problem:
        raise UserError(f"{path}: can't be read ({problem}); remove it, and the same command makes it again") from None
    except Exception as problem:  # zipfile and zlib have errors of their own
        raise UserError(f"{path}: is damaged ({problem}); remove it, and the same command makes it again") from None
