"""Data files that a page loads as scripts, so that it works from `file://`, where a page may not fetch files.

Each is one call, `MLLM.take("name", "...")`, whose text is JSON, deflated, in base64. 63,000 questions with three runs'
answers stay under 5 MB, and no text of an answer can be executed as script.
"""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

from mllm_eval.storage import write_atomic


def packed(data: Any) -> str:
    """JSON, deflated without a header, in base64. Raises ValueError for NaN and infinity."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    squeezed = zlib.compressobj(9, zlib.DEFLATED, -15)
    # A lone surrogate is legal in JSON but can't be encoded as UTF-8.
    return base64.b64encode(squeezed.compress(text.encode("utf-8", "replace")) + squeezed.flush()).decode()


def write_data(out: Path, name: str, data: Any) -> Path:
    """Writes data/<name>.js and returns its path. Raises ValueError unless a name has only letters, digits, hyphens."""
    if not name.replace("-", "").isalnum():
        raise ValueError(f"{name!r} is no name of a data file")
    path = out / "data" / f"{name}.js"
    write_atomic(path, f'MLLM.take("{name}","{packed(data)}");\n')
    return path


def unpacked(path: Path) -> Any:
    """The data in a file that `write_data` wrote."""
    text = path.read_text(encoding="utf-8")
    return json.loads(zlib.decompress(base64.b64decode(text.split('"')[3]), -15))
