"""The rank and number of processes, from the environment that a launcher sets."""

from __future__ import annotations

import os


def rank() -> int:
    """Number of this process, from 0; 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of processes on all machines; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """Number of processes on this machine; 1 without a launcher."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def several() -> bool:
    """Whether a launcher has started more than one process."""
    return world_size() > 1
