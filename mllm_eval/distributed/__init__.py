"""Support for commands that run as several processes: ranks, collectives, the work queue, and launchers.

Nothing here depends on a command or a run. torch is used only if a launcher has started several processes.
"""

from __future__ import annotations

from mllm_eval.distributed.collectives import (
    COLLECTIVE,
    SharedError,
    all_gathered,
    backend,
    barrier,
    decided,
    gathered,
    join,
    largest,
    meet,
    place_in_group,
    sharing,
    tells,
    together,
    without_compiling,
)
from mllm_eval.distributed.exchange import all_parts, own_parts
from mllm_eval.distributed.ranks import local_world_size, rank, several, world_size
from mllm_eval.distributed.workqueue import Share

__all__ = [
    "COLLECTIVE",
    "Share",
    "SharedError",
    "all_gathered",
    "all_parts",
    "backend",
    "barrier",
    "decided",
    "gathered",
    "join",
    "largest",
    "local_world_size",
    "meet",
    "own_parts",
    "place_in_group",
    "rank",
    "several",
    "sharing",
    "tells",
    "together",
    "without_compiling",
    "world_size",
]
