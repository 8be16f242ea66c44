"""Collectives: values and parts of all processes, decisions, and errors that all processes share."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from forked import run_ranks

from mllm_eval.distributed import (
    SharedError,
    all_gathered,
    all_parts,
    backend,
    barrier,
    decided,
    gathered,
    largest,
    meet,
    own_parts,
    place_in_group,
    tells,
    together,
)
from mllm_eval.errors import UserError


def refuse(number: int) -> None:
    raise UserError(f"images/{number}.png: cannot be decoded")


def test_one_process_has_only_its_own_values() -> None:
    assert place_in_group() == (0, 1) and backend() == ""
    assert all_gathered("own") == gathered("own") == ["own"]
    assert largest([3, 1], "cpu") == [3, 1]
    assert decided(lambda: "own") == "own"
    assert own_parts(3) == [0, 1, 2]
    barrier()
    with pytest.raises(UserError, match=r"7\.png") as raised:
        together(lambda: refuse(7))
    assert not isinstance(raised.value, SharedError) and tells(raised.value)


def exchange(folder: str) -> int:
    """What a rank gets of the others, as a file."""
    import torch

    meet()
    rank = int(os.environ["RANK"])
    # All numbers differ, and rank 1 of two has one part less than rank 0.
    parts = [torch.tensor([part, 0.1 * part], dtype=torch.float64) for part in own_parts(5)]
    whole = all_parts(parts, 5, torch.zeros(2, dtype=torch.float64))
    seen: dict[str, Any] = {
        "place": place_in_group(),
        "backend": backend(),
        "own": own_parts(5),
        "parts": torch.stack(whole).tolist(),
        "dtypes": sorted({str(part.dtype) for part in whole}),
        "all": all_gathered({"rank": rank}),
        "first": gathered(rank),
        "largest": largest([rank, -rank, 7], "cpu"),
        "decided": decided(lambda: f"rank {rank} decides"),
    }
    for name, refusing, first_only in (("shared", 1, False), ("of the first", 0, True)):
        try:
            together(lambda refusing=refusing: refuse(rank) if rank == refusing else None, first_only)
        except SharedError as error:
            seen[name] = (str(error), tells(error))
    barrier()
    (Path(folder) / f"seen{rank}.json").write_text(json.dumps(seen))
    return 0


@pytest.mark.slow
def test_every_process_gets_the_values_of_all_in_the_order_of_ranks(tmp_path: Path) -> None:
    codes = run_ranks(2, tmp_path, exchange, str(tmp_path))
    assert codes == [0, 0], [path.read_text()[-2000:] for path in tmp_path.glob("rank*.log")]
    both = [json.loads((tmp_path / f"seen{rank}.json").read_text()) for rank in range(2)]
    for rank, seen in enumerate(both):
        assert seen == {
            "place": [rank, 2],
            "backend": "gloo",
            "own": [[0, 2, 4], [1, 3]][rank],
            "parts": [[part, 0.1 * part] for part in range(5)],
            "dtypes": ["torch.float64"],
            "all": [{"rank": 0}, {"rank": 1}],
            "first": [[0, 1], []][rank],
            "largest": [1, 0, 7],
            "decided": "rank 0 decides",
            "shared": ["images/1.png: cannot be decoded", rank == 0],
            "of the first": ["images/0.png: cannot be decoded", rank == 0],
        }
