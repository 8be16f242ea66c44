"""Train one run as one of several processes: `torchrun --nproc-per-node 2 -m mllm_eval.train.worker --encoder ...`."""

from __future__ import annotations

import argparse
import sys
import warnings

from mllm_eval.distributed import SharedError, alive, rank, tells
from mllm_eval.environment import before_torch
from mllm_eval.errors import UserError, exception_words
from mllm_eval.run import Run


def main(words: list[str] | None = None) -> int:
    """Train a run as the rank that the launcher's environment variables name. Return the exit code.

    It is 0, or 2 after one line on stderr for bad input.
    """
    parser = argparse.ArgumentParser(prog="mllm_eval.train.worker", description=__doc__)
    parser.add_argument("--encoder", required=True, help="name in configs/encoders, or a yaml file")
    parser.add_argument("--recipe", default="mini", help="name in configs/recipes, or a yaml file; default: mini")
    parser.add_argument("--llm", help="name in configs/llms, or a yaml file; default: the recipe's")
    parser.add_argument("--seed", type=int, help="of the training; default: the recipe's")
    asked = parser.parse_args(words)
    before_torch()
    warnings.filterwarnings("ignore", category=FutureWarning)
    from mllm_eval.train import hold_to_its_data, train

    try:
        run = Run.of(asked.encoder, asked.recipe, asked.llm, asked.seed)
        if rank() == 0:
            run.prepare()
            hold_to_its_data(run)
        train(run)
    except UserError as problem:
        if not isinstance(problem, SharedError):
            alive.failed(str(problem))
        if tells(problem):
            print(problem, file=sys.stderr)
        return 2
    except Exception as problem:
        alive.failed(exception_words(problem))
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
