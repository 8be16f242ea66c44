"""`python -m fuzzing`: all kinds, or those that are named; exit code 1 where an outcome is a bad one."""

from __future__ import annotations

import argparse
import sys

from fuzzing.kinds import KINDS, prepare
from fuzzing.running import BAD, GOOD, MEMORY, SECONDS, Found, run_kind


def table(found: list[Found]) -> str:
    """Kinds and outcomes as a table of markdown."""
    head = ["kind", "inputs", *GOOD, *BAD, "slowest, s", "memory, MiB"]
    rows = [[one.kind, *map(str, [one.inputs, *(one.counts[name] for name in (*GOOD, *BAD))]),
             f"{one.slowest:.2f}", str(one.grown >> 20)] for one in found]  # fmt: skip
    sums = [str(sum(int(row[at]) for row in rows)) for at in range(1, len(head) - 2)]
    slowest, grown = max(one.slowest for one in found), max(one.grown for one in found)
    rows.append(["in all", *sums, f"{slowest:.2f}", str(grown >> 20)])
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["--"] + ["--:"] * (len(head) - 1), *rows])


def main(words: list[str] | None = None) -> int:
    """Run, print the table and what was bad; 1 where something was."""
    asked = argparse.ArgumentParser(prog="fuzzing", description=__doc__)
    asked.add_argument("--inputs", type=int, default=300, help="in all, shared out to the kinds")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--kinds", default=",".join(KINDS), help=", ".join(KINDS))
    asked.add_argument("--engine", choices=("hypothesis", "atheris"), default="hypothesis")
    said = asked.parse_args(words)
    chosen = said.kinds.split(",")
    each = -(-said.inputs // len(chosen))
    prepare(chosen)
    found = []
    for kind in chosen:
        found.append(run_kind(kind, KINDS[kind], each, said.seed, said.engine))
        told = ", ".join(f"{count} {name}" for name, count in found[-1].counts.items())
        print(f"{kind}: {found[-1].inputs} inputs ({told}), {found[-1].seconds:.0f} s", file=sys.stderr, flush=True)
    print(f"seed {said.seed}, {said.engine}; at most {SECONDS:.0f} s and {MEMORY >> 30} GiB an input\n")
    print(table(found))
    for one in found:
        for told, count in one.told.most_common():
            print(f"{one.kind}: {count} x {told}")
    return 0 if all(one.good and one.inputs >= each for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
