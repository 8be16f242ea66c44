"""Support for commands that run as several processes: ranks, collectives, the work queue, and launchers.

Nothing here depends on a command or a run. torch is used only if a launcher has started several processes.
"""

from __future__ import annotations

from mllm_eval.distributed.collectives import (
    COLLECTIVE,
    WAIT,
    SharedError,
    barrier,
    decided,
    gathered,
    join,
    meet,
    sharing,
    tells,
    together,
    without_compiling,
)
from mllm_eval.distributed.ranks import local_world_size, rank, several, world_size
from mllm_eval.distributed.workqueue import Share

__all__ = [
    "COLLECTIVE",
    "WAIT",
    "Share",
    "SharedError",
    "barrier",
    "decided",
    "gathered",
    "join",
    "local_world_size",
    "meet",
    "rank",
    "several",
    "sharing",
    "tells",
    "together",
    "without_compiling",
    "world_size",
]
