"""Whose fault an exception is: that of a family of one's own is told with its file and line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mllm_eval.errors import UserError, fault

if TYPE_CHECKING:
    from mllm_eval.catalog import Encoder


@contextmanager
def own_code(kind: type, facts: Encoder, doing: str) -> Iterator[None]:
    """Code of a family of one's own in the `with` block: what it raises is told with its file and line.

    Raises UserError in place of any exception but those that say it themselves or speak of memory; what a shipped
    family raises is left as it is.
    """
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if facts.code is None:
            raise
        path = Path(str(getattr(sys.modules.get(kind.__module__), "__file__", kind.__module__)))
        raise fault(error, f"family {facts.family}: `{doing}` fails", path.parent, otherwise=f"{path}: ") from error
