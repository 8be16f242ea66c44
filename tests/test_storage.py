"""Files are whole or absent, checksums see what they should, locks hold."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mllm_eval import locks, storage
from mllm_eval.errors import UserError


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "file.txt"
    storage.write_atomic(path, "old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        storage.write_atomic(path, b"new")
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_written_files_get_the_mode_of_ordinary_ones(tmp_path: Path) -> None:
    (tmp_path / "ordinary").write_text("x")
    storage.write_atomic(tmp_path / "atomic", "x")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_json_round_trip_and_its_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    storage.write_json(path, {"é": [1, None]})
    assert storage.read_json(path) == {"é": [1, None]}
    path.write_text('{\n"a": }')
    with pytest.raises(UserError, match=r"x\.json:2: not valid JSON"):
        storage.read_json(path)
    path.write_text('{"a": 1, "b": {"a": 2}, "b": 3}')
    with pytest.raises(UserError, match=r"x\.json: field 'b' is there twice"):
        storage.read_json(path)
    with pytest.raises(UserError, match="cannot be read"):
        storage.read_json(tmp_path / "none.json")
    with pytest.raises(ValueError, match="JSON"):
        storage.write_json(path, float("inf"))


def test_jsonl_round_trip_keeps_odd_line_ends_inside_texts(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    rows = [{"a": "one\u2028two\n"}, {"a": "\x85"}]
    storage.write_jsonl(path, rows)
    assert storage.read_jsonl(path) == rows


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "not valid JSON"),
        (b"[1]", "expected a JSON object, found list"),
        (b"\xff", "UTF-8"),
        (b'{"b": {"a": 1, "c": 2, "a": 1}}', "field 'a' is there twice; keep one of them"),
    ],
)
def test_jsonl_mistakes_name_the_line(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n\n' + line + b"\n")
    with pytest.raises(UserError, match=rf"x\.jsonl:3: .*{message}"):
        storage.read_jsonl(path)


def test_checksums(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    expected = hashlib.sha256(b"abc").hexdigest()
    assert storage.sha256_file(tmp_path / "a") == storage.sha256_bytes(b"abc") == expected
    with pytest.raises(UserError, match="cannot be read"):
        storage.sha256_file(tmp_path / "none")


def test_tree_checksum_sees_names_and_contents_only(tmp_path: Path) -> None:
    def tree(name: str, **files: str) -> str:
        for file, text in files.items():
            storage.write_atomic(tmp_path / name / file, text)
        return storage.sha256_tree(tmp_path / name, keep=lambda path: path.suffix != ".md")

    first = tree("first", a="1", b="2")
    assert tree("second", b="2", a="1") == first
    assert tree("card", a="1", b="2", **{"README.md": "x", ".hidden": "y"}) == first
    assert tree("content", a="1", b="3") != first
    assert tree("name", a="1", c="2") != first
    assert tree("more", a="1", b="2", c="") != first
    with pytest.raises(UserError, match="no such folder"):
        storage.sha256_tree(tmp_path / "none")


def _hold(path: Path, ready: object, release: object) -> None:
    with locks.FileLock(path):
        ready.set()  # type: ignore[attr-defined]
        release.wait(60)  # type: ignore[attr-defined]


def test_lock_waits_for_another_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    ready, release = multiprocessing.Event(), multiprocessing.Event()
    other = multiprocessing.Process(target=_hold, args=(path, ready, release))
    other.start()
    assert ready.wait(60)
    told: list[bool] = []

    def waiting() -> None:
        told.append(True)
        release.set()

    with locks.FileLock(path, waiting):
        assert told == [True]
    other.join(60)
    assert other.exitcode == 0


def test_a_lock_ends_with_its_process_though_a_child_of_it_goes_on(tmp_path: Path) -> None:
    """A killed process leaves those that read for it: they must not keep the next start waiting."""
    code = (
        "import os, signal, sys; from pathlib import Path; from mllm_eval.locks import FileLock\n"
        "FileLock(Path(sys.argv[1])).__enter__()\n"
        "child = os.fork()\n"
        "child or print(os.getpid(), flush=True)\n"  # the child goes on, so that what a fork does to locks is done
        "signal.pause()\n"
    )
    read, write = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock")], stdout=write)
    os.close(write)
    child = int(os.read(read, 20))
    process.kill()
    assert process.wait() == -signal.SIGKILL
    try:
        os.kill(child, 0)
        with locks.FileLock(tmp_path / "lock", lambda: pytest.fail("the lock is still held")):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(read)


def test_homes_and_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLLM_EVAL_DATA", raising=False)
    monkeypatch.delenv("MLLM_EVAL_RESULTS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert storage.data_home() == tmp_path / "home" / ".cache" / "mllm_eval"
    assert storage.results_home() == tmp_path / "results"
    (tmp_path / "mllm_eval").mkdir()
    for file in ("pyproject.toml", "mllm_eval/__init__.py"):
        (tmp_path / file).touch()
    assert storage.data_home() == tmp_path / "data"
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path / "d"))
    assert storage.locate("data:x/y") == tmp_path / "d" / "x" / "y"
    assert storage.locate("package:errors.py").is_file()
    assert storage.locate("x", base=tmp_path / "b") == tmp_path / "b" / "x"
    assert storage.locate("/x", base=tmp_path) == Path("/x")


def test_a_folder_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "made"
    with pytest.raises(KeyError), locks.made_whole(target, "VERSION", "1") as making:
        assert making is not None
        making.mkdir()
        (making / "half").write_text("half")
        raise KeyError
    assert not target.exists() and {path.name for path in tmp_path.iterdir()} <= {".made.lock"}
    for version in ("1", "2"):
        with locks.made_whole(target, "VERSION", version) as making:
            assert making is not None
            making.mkdir()
            (making / f"of-{version}").write_text("whole")
        with locks.made_whole(target, "VERSION", version) as again:
            assert again is None
        assert {path.name for path in target.iterdir()} == {"VERSION", f"of-{version}"}
