"""Reports exceptions from users' own families with their file and line."""

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
    """Turn exceptions of a user's own family in the `with` block into a UserError with file and line.

    doing: the method that is called. UserError and out-of-memory errors pass unchanged, and so does every exception
    of a shipped family.
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
