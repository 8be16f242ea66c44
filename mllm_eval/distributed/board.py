"""The board: counters and texts that the processes of a group share, on a store of torch that rank 0 holds."""

from __future__ import annotations

import os
from typing import Any


def shared_board(group: Any) -> Any:
    """Return a new store of torch, on a connection of its own. All processes of the group must call this.

    group: torch.distributed, in which this process has joined a group.
    """
    host = os.environ.get("MASTER_ADDR", "127.0.0.1")
    # Port 0 lets the system choose a free port, which is then broadcast.
    own = group.TCPStore(host, 0, is_master=True, wait_for_workers=False) if group.get_rank() == 0 else None
    port: list[int | None] = [own.port if own else None]
    group.broadcast_object_list(port, src=0)
    return own or group.TCPStore(host, port[0], is_master=False)
