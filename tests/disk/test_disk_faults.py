"""Every kind of file against every kind of fault: one line with the path and a mend, nothing corrupted, and the next
start ends in the bytes of a disk that never failed."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from faulty import KINDS, faulty, largest_file
from tiny_models import make_conversations, make_encoder, make_llm, make_recipe, make_tokenizer

from mllm_eval.adapters import load_encoder_model
from mllm_eval.answers import Answer, Journal
from mllm_eval.data.conversations import ConversationSet
from mllm_eval.data.rowindex import row_index
from mllm_eval.disk import NotWritten
from mllm_eval.errors import UserError
from mllm_eval.features import FeatureStore
from mllm_eval.locks import FileLock, made_whole
from mllm_eval.model import VLM, assemble, load_checkpoint, load_llm_model, load_tokenizer, save_checkpoint
from mllm_eval.probes.keeping import StateFile
from mllm_eval.report.render import write_tables
from mllm_eval.report.table import Cell, Column, Row, Table
from mllm_eval.results.timings import append_timing, read_timings
from mllm_eval.run import Run
from mllm_eval.storage import write_json
from mllm_eval.train import rowtokens
from mllm_eval.train.stageprogress import StageLog, latest_whole, mark_whole, remove_others

NAMES = "abcdef"


def the_answer(name: str) -> Answer:
    return Answer(name, "p" * 16, ("i" * 16,), f"says\t{name}\n{name * 40}", 40, 3)


def journal(folder: Path) -> bytes:
    """Two at a time, what has no answer yet; then the finished file."""
    kept = Journal(folder / "answers" / "gqa.jsonl")
    kept.hold_to(8)
    if not kept.complete:
        asked = [name for name in NAMES if name not in kept.done()]
        for at in range(0, len(asked), 2):
            kept.append([the_answer(name) for name in asked[at : at + 2]])
        kept.finish(NAMES)
    return "".join(answer.line() for answer in kept.done().values()).encode()


def features(folder: Path) -> bytes:
    """Rows of six images, put in two at a time where they are missing or damaged."""
    store = FeatureStore(folder / "features" / "store", (2, 2), 8, meta={"encoder": "tiny"})
    images = [name * 64 for name in NAMES]
    rows = torch.arange(6 * 5 * 8, dtype=torch.float32).view(6, 5, 8)
    try:
        for _ in range(2):
            lacking = sorted({*map(images.index, store.missing(images)), *store.rows(images)[1]})
            for at in range(0, len(lacking), 2):
                own = lacking[at : at + 2]
                assert store.put_rows([images[one] for one in own], rows[own].clone())
        return store.rows(images)[0].numpy().tobytes()
    finally:
        store.close()


def stage(folder: Path) -> bytes:
    """A stage of eight steps that keeps a checkpoint every other step, and its log."""
    made = folder / "stage1" / "checkpoints"
    resume = latest_whole(made)
    step = int(resume.name.partition("-")[2]) if resume else 0
    state = json.loads((resume / "state.json").read_text()) if resume else [0]
    remove_others(made, resume)
    log = StageLog(folder / "stage1" / "log.jsonl", step)
    while step < 8:
        step += 1
        state = [*state, state[-1] * 3 + step]
        log.add(step, float(state[-1]), 0.1, None, 5)
        if step % 2 == 0:
            own = made / f"checkpoint-{step}"
            own.mkdir(parents=True)
            write_json(own / "state.json", state)
            mark_whole(own)
    return json.dumps(state).encode()


def table(folder: Path) -> bytes:
    rows = (Row("one", "measured", {"value": Cell("1.0", 1.0)}), Row("two", "measured", {"value": Cell("2.0", 2.0)}))
    write_tables(Table("compare", "Comparison", (Column("value", "Value"),), rows), folder / "tables", "all")
    return b"".join(path.read_bytes() for path in sorted((folder / "tables").glob("*")) if path.is_file())


def record(folder: Path) -> bytes:
    """What `write_json` writes: manifests, summaries, settled states, probes' and alignment's results."""
    with FileLock(folder / ".lock"):
        write_json(folder / "scores" / "gqa.json", {"value": 50.25})
    return (folder / "scores" / "gqa.json").read_bytes()


def timings(folder: Path) -> bytes:
    if not any(one.title == "training" for one in read_timings(folder)):
        append_timing(folder, {"step": "training", "kind": "training", "seconds": 1.5})
    return repr(read_timings(folder)).encode()


def index(folder: Path) -> bytes:
    path = folder / "rows.jsonl"
    if not path.is_file():
        folder.mkdir()
        path.write_text('{"a": 1}\n' * 5)
        os.utime(path, ns=(1, 1))
    return row_index(path, folder / "index").tobytes()


def token_cache(folder: Path) -> bytes:
    rows, images = make_conversations(folder.parent / "conversations", 7)
    os.environ["MLLM_EVAL_RESULTS"] = str(folder)
    rowtokens.verified_folders.clear()
    found = rowtokens.tokenise([ConversationSet(rows, images)], make_tokenizer(), "digest", "llama_3_meta")
    arrays = (found.ids, found.targets, found.offsets, found.image_of, found.origin, found.images.digests)
    return b"".join(one.tobytes() for one in arrays) + found.listing.read_bytes()


def kept_probe(folder: Path) -> bytes:
    kept, whole = StateFile(folder / "probe" / "kept.safetensors"), torch.arange(40.0)
    if "whole" not in kept.load():
        kept.save({"whole": whole})
    return kept.load()["whole"].numpy().tobytes()


def made_folder(folder: Path) -> bytes:
    """How the miniature's data are made."""
    with made_whole(folder / "miniature", "version", "1") as making:
        if making is not None:
            making.mkdir()
            write_json(making / "rows.json", list(range(30)))
    return (folder / "miniature" / "rows.json").read_bytes()


_model: list[Any] = []


def checkpoint(folder: Path) -> bytes:
    if not _model:
        home = folder.parent / "models"
        encoder, llm = make_encoder(home / "encoder"), make_llm(home / "llm")
        recipe = make_recipe(*make_conversations(home / "data", 6))
        torch.manual_seed(0)
        model = assemble(encoder, recipe, load_llm_model(llm), load_tokenizer(llm, recipe.template))
        _model.append((model, load_encoder_model(encoder, torch.float32)))
    made = folder / "run" / "checkpoint"
    if not made.is_dir():
        save_checkpoint(*[_model[0][0], made, _model[0][1]])
    loaded: VLM = load_checkpoint(made)
    return b"".join(one.numpy().tobytes() for _, one in sorted(loaded.state_dict().items()))


QUICK: dict[str, Callable[[Path], bytes]] = {
    "journal": journal,
    "features": features,
    "stage": stage,
    "table": table,
    "record": record,
    "timings": timings,
    "row index": index,
    "token cache": token_cache,
    "probe": kept_probe,
    "made folder": made_folder,
}
ALL = {**QUICK, "checkpoint": checkpoint}


@pytest.fixture(autouse=True)
def _own_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))


def hold_to_one_line(problem: BaseException, folder: Path) -> None:
    said = str(problem)
    assert isinstance(problem, NotWritten), problem
    assert "\n" not in said and said.startswith(f"{folder}/"), said
    assert "cannot be written (" in said and "); " in said, said


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ALL)
def test_a_fault_at_any_call_leaves_what_the_next_start_goes_on_from(name: str, kind: str, tmp_path: Path) -> None:
    work = ALL[name]
    whole = work(tmp_path / "undisturbed")
    calls = [*range(40)] if name in QUICK else [0, 1]
    for at in calls:
        folder = tmp_path / f"{at}"
        with faulty(kind, folder, at) as faults:
            try:
                found = work(folder)
            except UserError as problem:
                assert faults.met
                hold_to_one_line(problem, folder)
            else:
                # What failed was nothing that the work hangs on, such as the sync of a folder's names.
                assert found == whole
        assert work(folder) == whole, at
        if not faults.met:
            break
    else:
        assert name not in QUICK or at > 30


@pytest.mark.parametrize("name", QUICK)
def test_a_system_that_takes_a_byte_at_a_time_gets_all_of_them(name: str, tmp_path: Path) -> None:
    with faulty("short", tmp_path / "short", 0):
        short = QUICK[name](tmp_path / "short")
    assert short == QUICK[name](tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_other_bytes_than_were_written_are_told_or_made_again(name: str, tmp_path: Path) -> None:
    work, drawn = ALL[name], random.Random(name)
    whole = work(tmp_path / "undisturbed")
    folder = tmp_path / "changed"
    work(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    # What is only shown, and what the test itself made for the work to read, is compared with nothing.
    files = [path for path in files if path.name not in ("meta.json", "log.jsonl", "ledger.jsonl", "rows.jsonl")]
    files = [path for path in files if name not in ("record", "row index", "made folder")]
    for path in files:
        # Of checkpoints the one that a stage goes on from stays.
        kept = path.read_bytes() if path.is_file() else b""
        for _ in range((6 if name in QUICK else 1) if kept else 0):
            at = drawn.randrange(len(kept))
            path.write_bytes(kept[:at] + bytes([kept[at] ^ 1 << drawn.randrange(8)]) + kept[at + 1 :])
            try:
                found = work(folder)
            except UserError as problem:
                assert str(folder) in str(problem)
                path.write_bytes(kept)
                found = work(folder)
            assert found == whole, path
            if not path.is_file():
                break
            path.write_bytes(kept)


def test_a_part_that_came_back_otherwise_is_asked_again_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Journal(tmp_path / "gqa.jsonl")
    kept.append([the_answer(name) for name in NAMES])
    data = kept.part.read_bytes()
    # Another letter of an answer is JSON as good as the first.
    kept.part.write_bytes(data.replace(b"bbbb", b"bbbx", 1))
    with caplog.at_level(logging.WARNING):
        assert sorted(Journal(kept.path).done()) == sorted(set(NAMES) - {"b"})
    assert "gqa.jsonl.part:2: not what was written there" in caplog.text


def test_answers_that_came_back_otherwise_are_refused(tmp_path: Path) -> None:
    journal(tmp_path)
    path = tmp_path / "answers" / "gqa.jsonl"
    path.write_bytes(path.read_bytes().replace(b"bbbb", b"bbbx", 1))
    with pytest.raises(UserError, match=r"gqa.jsonl: its bytes are not those that were written .*put the file back"):
        Journal(path).done()
    (path.parent / ".gqa.jsonl.sum").unlink()
    assert "bbbx" in Journal(path).done()["b"].text


@pytest.mark.slow
def test_the_writers_of_libraries_are_understood(tmp_path: Path) -> None:
    whole = checkpoint(tmp_path / "undisturbed")
    folder = tmp_path / "limited"
    for size in (100, 2**15):
        with largest_file(size), pytest.raises(NotWritten, match=r"File too large|ulimit") as problem:
            checkpoint(folder)
        hold_to_one_line(problem.value, folder)
        assert not (folder / "run" / "checkpoint").exists()
    with largest_file(2**10), pytest.raises(NotWritten, match="stage2: cannot be written"):
        from mllm_eval.disk import saving

        with saving(folder / "stage2"):
            torch.save({"optimiser": torch.zeros(2**16)}, folder / "optimizer.pt")
    assert checkpoint(folder) == whole


def test_a_file_system_without_locks_is_said_once_and_one_without_writing_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mllm_eval import locks

    def none(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    monkeypatch.setattr(locks, "told_without_locks", set())
    for _ in range(2):
        with FileLock(tmp_path / "run" / ".lock"):
            pass
    assert caplog.text.count("its file system has no locks (No locks available): let one command at a time") == 1
    with (
        faulty("open", tmp_path / "other", 0),
        pytest.raises(NotWritten, match=r"gqa.json: cannot be written .*quota.*goes on from"),
    ):
        write_json(tmp_path / "other" / "gqa.json", {})


def train_in(folder: Path, tiny: tuple[Any, Any]) -> Run:
    """A training whose results lie in a folder of their own."""
    from mllm_eval.train import train

    data, images = folder.parent / "data" / "train.jsonl", folder.parent / "data" / "images"
    run = Run(tiny[0], make_recipe(data, images), tiny[1], 0)
    os.environ["MLLM_EVAL_RESULTS"] = str(folder)
    run.prepare()
    train(run)
    return run


@pytest.mark.slow
def test_a_disk_that_is_full_ends_a_training_in_one_line_and_room_lets_it_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mllm_eval.storage import sha256_tree
    from mllm_eval.train import stages

    make_conversations(tmp_path / "data")
    tiny = make_encoder(tmp_path / "models" / "encoder"), make_llm(tmp_path / "models" / "llm")
    whole = sha256_tree(train_in(tmp_path / "undisturbed", tiny).checkpoint)
    # What is looked at before training would refuse it.
    monkeypatch.setattr(stages, "check_room", lambda run: None)
    folder, said = tmp_path / "limited", set()
    for size in (2_000, 30_000, 200_000, 700_000, 2**30):
        try:
            with largest_file(size):
                train_in(folder, tiny)
        except NotWritten as problem:
            hold_to_one_line(problem, folder)
            said.add(str(problem).partition(": ")[0].rpartition("/")[2])
        else:
            break
    assert len(said) >= 2, said
    assert sha256_tree(train_in(folder, tiny).checkpoint) == whole


def test_a_truly_full_file_system(tmp_path: Path) -> None:
    mounted = tmp_path / "small"
    mounted.mkdir()
    code = (
        "import sys; from pathlib import Path; from mllm_eval.answers import Answer, Journal\n"
        "from mllm_eval.disk import NotWritten\n"
        f"path = Path({str(mounted)!r}) / 'gqa.jsonl'; kept = Journal(path); kept.hold_to(8)\n"
        "try:\n"
        "    for n in range(2000): kept.append([Answer(str(n), 'p', (), 'x' * 100, 1, 1)])\n"
        "except NotWritten as problem: print(problem)\n"
        "found = Journal(path).done(); print(len(found), list(found) == [str(n) for n in range(len(found))])\n"
    )
    mount = f'mount -t tmpfs -o size=64k tmpfs {mounted} && exec {sys.executable} -c "$CODE"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount], env={**os.environ, "CODE": code}, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no mounts here: {done.stderr[-100:]}")
    problem, found = done.stdout.splitlines()
    assert problem.startswith(f"{mounted}/gqa.jsonl.part: cannot be written (No space left on device); make room")
    assert int(found.split()[0]) > 100 and found.endswith("True")


def test_read_only_results_are_looked_at_and_not_written(tmp_path: Path) -> None:
    """A real read-only mount, where mounts are allowed."""
    journal(tmp_path / "run")
    code = (
        "from pathlib import Path; from mllm_eval.answers import Answer, Journal\n"
        "from mllm_eval.locks import FileLock\n"
        "from mllm_eval.disk import NotWritten\n"
        f"run = Path({str(tmp_path / 'run')!r})\n"
        "with FileLock(run / '.lock'):\n"
        "    kept = Journal(run / 'answers' / 'gqa.jsonl'); print(len(kept.done()))\n"
        "    try: kept.append([Answer('new', 'p', (), 'x', 1, 1)])\n"
        "    except NotWritten as problem: print(problem)\n"
    )
    place = tmp_path / "run"
    mount = f'mount --bind {place} {place} && mount -o remount,bind,ro {place} && exec {sys.executable} -c "$CODE"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount], env={**os.environ, "CODE": code}, capture_output=True, text=True
    )
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"no mounts here: {done.stderr[-100:]}")
    count, problem = done.stdout.splitlines()
    assert count == "6" and "gqa.jsonl.part: cannot be written (Read-only file system); its file system is" in problem
