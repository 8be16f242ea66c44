"""Which process this is and how many there are, as a launcher's environment says."""

from __future__ import annotations

import os


def rank() -> int:
    """Number of this process, from 0; 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes there are on all machines; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """How many of them are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def several() -> bool:
    """Whether a launcher has started more than one."""
    return world_size() > 1
