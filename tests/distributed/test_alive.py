"""One of several processes fails or stands still: the others stop, with its reason."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from forked import run_ranks

from mllm_eval.distributed import alive
from mllm_eval.distributed.alive import Watch
from mllm_eval.distributed.workqueue import Alone


class Board(Alone):
    """torch's store, in one process."""

    def __init__(self) -> None:
        super().__init__()
        self.said: dict[str, str] = {}

    def set(self, name: str, value: str) -> None:
        self.said[name] = value

    def compare_set(self, name: str, expected: str, value: str) -> None:
        if self.said.get(name, "") == expected:
            self.said[name] = value

    def check(self, names: list[str]) -> bool:
        return all(name in self.said for name in names)

    def get(self, name: str) -> bytes:
        return self.said[name].encode()


def test_a_process_that_is_not_heard_of_is_named_and_one_that_has_left_is_not_missed() -> None:
    board = Board()
    board.set("place/1", "node7, process 42")
    own = Watch(board, 0, 2, every=3600, lost=-1)
    board.add("beat/1", 1)
    assert own.look() == ""
    assert own.look() == "rank 1 (node7, process 42) has not been heard of for -1 s"
    board.set("left/1", "1")
    assert own.look() == ""
    own.leave()
    assert board.said["left/0"] == "1"


def test_the_first_reason_counts() -> None:
    board = Board()
    own, other, third = (Watch(board, rank, 3, every=3600) for rank in range(3))
    other.fail("images/7.png:\n cannot be decoded")
    third.fail("Connection closed by peer")
    assert own.look() == "rank 1: images/7.png: cannot be decoded"
    own.leave()


def meet_and(do: str) -> int:
    from mllm_eval.distributed import barrier, meet

    alive.EVERY, alive.LOST = 0.1, 1.0
    meet()
    if os.environ["RANK"] == "1":
        if do == "fail":
            alive.failed("images/7.png: cannot be decoded")
        os.kill(os.getpid(), signal.SIGSTOP)
    barrier()
    return 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("do", "said"),
    [("fail", "mllm-eval: rank 1: images/7.png: cannot be decoded; rank 0 stops with it"),
     ("stand still", "has not been heard of for 1 s; rank 0 stops with it")],
)  # fmt: skip
def test_no_process_waits_for_one_that_stands_still(do: str, said: str, tmp_path: Path) -> None:
    codes = run_ranks(2, tmp_path, meet_and, do)
    assert codes[0] == 1
    assert said in (tmp_path / "rank0.log").read_text()
