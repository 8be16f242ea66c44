"""`python -m peers`: an exported checkpoint, asked by clients that others wrote; exit code 1 where an answer differs.

Each client answers in an environment of its own under results/peers, in the versions of `requirements/`, greedily, the
same questions with the same prompts as the run. One that cannot be installed is shown with the reason, and is no fault.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from peers.environments import CLIENTS, Client, NotInstalledError, ask, environment


@dataclass(frozen=True)
class Found:
    """What a client answered: `different` by question, its text beside the run's; or why it answered nothing."""

    client: Client
    equal: int
    different: dict[str, tuple[str | None, str]]
    missing: str | None = None
    failed: str | None = None


def held(client: Client, own: dict[str, str], answers: Path, failed: str | None = None) -> Found:
    """A client's answers against the run's; a question without an answer differs."""
    told: dict[str, str] = {}
    if failed is None:
        rows = map(json.loads, answers.read_text(encoding="utf-8").splitlines())
        told = {row["id"]: row["text"].strip() for row in rows}
    different = {id_: (told.get(id_), text) for id_, text in own.items() if told.get(id_) != text}
    return Found(client, len(own) - len(different), different, failed=failed)


def table(found: list[Found], questions: int) -> str:
    """Clients, versions and answers as a table of markdown, and a line that sums it up."""
    rows = [["client", "version", "equal", "different"], ["--", "--", "--:", "--:"]]
    for one in found:
        counts = [f"not installed: {one.missing}", ""] if one.missing else [str(one.equal), str(len(one.different))]
        rows.append([one.client.says, one.client.version, *counts])
    asked = [one for one in found if not one.missing]
    told = f"{questions} questions; {len(asked)} of {len(found)} clients asked, {len(found) - len(asked)} not installed"
    sums = f"{sum(one.equal for one in asked)} answers equal, {sum(len(one.different) for one in asked)} different"
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + f"\n\n{told}; {sums}"


def exit_code(found: list[Found]) -> int:
    """1 where a client that is there answered otherwise, or not at all."""
    return int(any(one.different for one in found))


def compare(run_name: str | None, clients: list[Client], each: int, torch_from: str | None) -> list[Found]:
    """Export, ask every client, hold its answers against the run's; prints what differs as it is found."""
    from mllm_eval.environment import before_torch

    before_torch()
    from mllm_eval.model.export import export_llava
    from mllm_eval.storage import results_home
    from peers.questions import answered_run, write_questions

    run, found = answered_run(run_name), []
    with tempfile.TemporaryDirectory(prefix="mllm-eval-peers-") as name:
        home = Path(name)
        _say(f"{run.name}: {export_llava(run.checkpoint, home / 'export')}")
        own = write_questions(run, home / "questions", each)
        for client in clients:
            _say(f"{client.name}: {client.says} {client.version}")
            out = home / client.name
            try:
                python = environment(client, results_home() / "peers", torch_from)
            except NotInstalledError as problem:
                found.append(Found(client, 0, {}, missing=str(problem)))
                continue
            failed = ask(client, python, home / "export", home / "questions", out)
            one = held(client, own, out / "answers.jsonl", failed)
            if failed:
                _say(f"{client.name}: no answers: {failed}")
            for id_, (theirs, ours) in {} if failed else one.different.items():
                _say(f"{client.name}: {id_}: {theirs!r}, the run {ours!r}")
            found.append(one)
    print(table(found, len(own)))
    return found


def main(words: list[str] | None = None) -> int:
    """Run, print the table; 1 where an answer differs, 2 for bad input."""
    from mllm_eval.errors import UserError

    known = {client.name: client for client in CLIENTS}
    asked = argparse.ArgumentParser(prog="peers", description=__doc__)
    asked.add_argument("--run", help="hash, beginning of one or name; by default mini-clip is trained for it, minutes")
    asked.add_argument("--clients", default=",".join(known), help="by default %(default)s")
    asked.add_argument("--each", type=int, default=2, help="questions of each benchmark")
    asked.add_argument("--torch-from", help="the index that torch comes from")
    said = asked.parse_args(words)
    chosen = said.clients.split(",")
    if unknown := [name for name in chosen if name not in known]:
        asked.error(f"no client {unknown[0]!r}; there are {', '.join(known)}")
    try:
        return exit_code(compare(said.run, [known[name] for name in chosen], said.each, said.torch_from))
    except UserError as problem:
        print(f"peers: {problem}", file=sys.stderr)
        return 2


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
