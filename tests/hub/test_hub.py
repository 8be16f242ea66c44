"""Fetching and locking files: what arrives is checked, what is locked is held to, and a login leaves no trace."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_hub import COMMIT, Hub, served

from mllm_eval.errors import UserError
from mllm_eval.hub import Lock, Source, lock_path, locked_folder, read_lock
from mllm_eval.hub.fetch import adopt, cached_folder, fetch, fetch_url
from mllm_eval.hub.safetensors_header import read_header

SECRET = "hf_thisMustNeverBeWritten"
MODEL = Source("model", "owner/model", "main", "fetch it again")
FILES = {"config.json": b'{"model_type": "llama"}', "model.safetensors": b"weights" * 1000, "extra/notes.txt": b"no"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with served(tmp_path, monkeypatch) as found:
        found.repos["models/owner/model"] = dict(FILES)
        yield found


def weights_only(names: list[str]) -> list[str]:
    return [name for name in names if "/" not in name]


@pytest.mark.parametrize(
    ("text", "repo", "revision"),
    [
        ("a/b", "a/b", None),
        ("a/b@", "a/b", None),
        ("a/b@v1.0", "a/b", "v1.0"),
        ("a/b@refs/pr/1@x", "a/b", "refs/pr/1@x"),
    ],
)
def test_a_model_is_named_with_its_revision_or_without(text: str, repo: str, revision: str | None) -> None:
    assert Source.of_model(text) == Source("model", repo, revision)


def test_fetched_files_are_the_chosen_ones_and_are_locked(hub: Hub, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    folder = fetch(MODEL, weights_only, progress=lambda done, total: told.append((done, total)))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    lock = read_lock(MODEL)
    assert lock is not None
    assert lock.only.commit == COMMIT
    assert lock.only.files["model.safetensors"].size == 7000
    assert told[-1] == (7000 + len(FILES["config.json"]),) * 2
    assert locked_folder(MODEL, whole=True) == folder
    assert str(tmp_path) not in lock_path(MODEL).read_text()


def test_what_is_locked_needs_no_hub(hub: Hub) -> None:
    folder = fetch(MODEL, weights_only)
    hub.asked.clear()
    assert locked_folder(MODEL) == folder
    assert hub.asked == []


def test_a_folder_of_ones_own(hub: Hub, tmp_path: Path) -> None:
    hub.repos["datasets/owner/set"] = {"data/test-0.parquet": b"rows" * 50}
    source = Source("dataset", "owner/set", COMMIT)
    assert fetch(source, lambda names: names, folder=tmp_path / "set") == tmp_path / "set"
    assert (tmp_path / "set" / "data" / "test-0.parquet").read_bytes() == b"rows" * 50
    assert locked_folder(source) == tmp_path / "set"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "cut short: 100 bytes, the lock of owner/model@main"),
        (lambda path: path.write_bytes(b"v" + path.read_bytes()[1:]), "its SHA-256 is"),
        (lambda path: path.unlink(), "the file is gone"),
    ],
)
def test_files_that_are_not_the_locks_are_refused(hub: Hub, spoil: object, message: str) -> None:
    folder = fetch(MODEL, weights_only)
    path = folder / "model.safetensors"
    target = path.resolve()
    assert callable(spoil)
    spoil(target)
    with pytest.raises(UserError, match=message):
        locked_folder(MODEL)


def test_a_change_that_keeps_size_and_time_is_found_when_all_is_read(hub: Hub) -> None:
    path = fetch(MODEL, weights_only).joinpath("model.safetensors").resolve()
    before = path.stat()
    path.write_bytes(b"v" + path.read_bytes()[1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    locked_folder(MODEL)
    with pytest.raises(UserError, match="its SHA-256 is"):
        locked_folder(MODEL, whole=True)


def test_a_lock_holds_later_fetches_to_its_files(hub: Hub, tmp_path: Path) -> None:
    fetch(MODEL, weights_only, folder=tmp_path / "a")
    hub.repos["models/owner/model"]["model.safetensors"] = b"another" * 1000
    with pytest.raises(UserError, match="or delete the lock if the change is meant"):
        fetch(MODEL, weights_only, folder=tmp_path / "b")


def test_a_copy_can_be_brought_and_is_held_to_the_lock(hub: Hub, tmp_path: Path) -> None:
    folder = fetch(MODEL, weights_only, folder=tmp_path / "a")
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("config.json", "model.safetensors"):
        (copy / name).write_bytes((folder / name).read_bytes())
    assert adopt(MODEL, weights_only, copy) == copy
    assert locked_folder(MODEL) == copy
    lock = read_lock(MODEL)
    assert lock is not None and lock.only.commit == COMMIT
    (copy / "config.json").write_bytes(b"{}")
    with pytest.raises(UserError, match=r"config\.json"):
        adopt(MODEL, weights_only, copy)


def test_huggingface_hubs_own_cache_can_be_locked_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import hf_hub_download

    for name in ("config.json", "model.safetensors"):
        hf_hub_download("owner/model", name, revision=COMMIT, endpoint=hub.url)
    source = Source("model", "owner/model", COMMIT)
    hub.asked.clear()
    folder = adopt(source, weights_only, cached_folder(source))
    lock = read_lock(source)
    assert hub.asked == []
    assert lock is not None and lock.only.commit == COMMIT
    assert locked_folder(source) == folder
    with pytest.raises(UserError, match="not in huggingface_hub's cache"):
        cached_folder(Source("model", "owner/other", COMMIT))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Source("model", "owner/nothing"), "the hub has no such repository"),
        (Source("model", "owner/model", "v9"), "the hub has no revision 'v9' of it; correct `revision`"),
        (Source("model", "a/b/c"), "not a repository's name"),
    ],
)
def test_wrong_names_are_one_line(hub: Hub, source: Source, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fetch(source, weights_only)
    assert read_lock(source) is None


def test_gated_without_a_login_is_one_line(hub: Hub) -> None:
    hub.gated.add("models/owner/model")
    with pytest.raises(UserError, match="gated; accept its licence at"):
        fetch(MODEL, weights_only)


def test_a_login_is_used_and_written_nowhere(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated.add("models/owner/model")
    monkeypatch.setenv("HF_TOKEN", SECRET)
    fetch(MODEL, weights_only, folder=tmp_path / "a")
    assert any(SECRET in headers.get("authorization", headers.get("Authorization", "")) for _, _, headers in hub.asked)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes()


def test_no_connection_is_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"the hub can't be reached .* or bring a copy with --from DIR"):
        fetch(MODEL, weights_only)


def test_offline_by_choice_is_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        fetch(MODEL, weights_only)


def test_a_model_is_gone_on_with_where_it_stopped_and_stands_in_the_hubs_cache(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants, hf_hub_download

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)

    def stop(done: int, total: int) -> None:
        if done > 3000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(MODEL, weights_only, progress=stop)
    assert read_lock(MODEL) is None
    (part,) = (path for path in (tmp_path / "cache").rglob("*.part") if path.stat().st_size)
    had = part.stat().st_size
    hub.asked.clear()
    folder = fetch(MODEL, weights_only)
    assert [headers["Range"] for _, _, headers in hub.asked if "Range" in headers] == [f"bytes={had}-"]
    assert not list((tmp_path / "cache").rglob("*.part"))
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    # Where others look for it, they find it.
    hub.asked.clear()
    assert hf_hub_download("owner/model", "model.safetensors", endpoint=hub.url) == str(folder / "model.safetensors")
    assert not [path for method, path, _ in hub.asked if method == "GET"]


def test_locks_of_older_versions_are_read(hub: Hub, tmp_path: Path) -> None:
    folder = fetch(MODEL, weights_only)
    path = lock_path(MODEL)
    lock, place = json.loads(path.read_text()), json.loads(path.with_suffix(".place").read_text())
    path.write_text(json.dumps(lock["parts"]["files"]))
    path.with_suffix(".place").write_text(json.dumps({"folder": place["folders"]["files"], "seen": {}}))
    assert locked_folder(MODEL) == folder
    assert read_lock(MODEL) == Lock.model_validate(lock)
    assert json.loads(path.with_suffix(".place").read_text()) == place
    assert fetch(MODEL, weights_only) == folder and json.loads(path.read_text()) == lock


def test_an_address_is_fetched_on_from_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    data = bytes(range(256)) * 20
    hub.plain["w/model.pth"] = data
    hub.short["w/model.pth"] = 1000
    source = Source("url", f"{hub.url}/w/model.pth")
    path = tmp_path / "weights" / "model.pth"
    with pytest.raises(UserError, match=r"the transfer stopped at 1,000 of 5,120 bytes"):
        fetch_url(source, path)
    assert not path.exists()
    hub.short.clear()
    fetch_url(source, path)
    assert path.read_bytes() == data
    assert [headers.get("Range") for _, _, headers in hub.asked] == [None, "bytes=1000-"]
    hub.asked.clear()
    assert fetch_url(source, path) == locked_folder(source)
    assert hub.asked == []


def test_an_address_with_other_content_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.plain["w/model.pth"] = b"x" * 10
    source = Source("url", f"{hub.url}/w/model.pth")
    with pytest.raises(UserError, match="was expected; removed it"):
        fetch_url(source, tmp_path / "model.pth", sha256="0" * 64)
    with pytest.raises(UserError, match="the server says 404"):
        fetch_url(Source("url", f"{hub.url}/nothing.pth"), tmp_path / "model.pth")


def test_safetensors_headers_are_read_and_a_cut_file_is_found(tmp_path: Path) -> None:
    head = json.dumps({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {}}).encode()
    path = tmp_path / "x.safetensors"
    whole = struct.pack("<Q", len(head)) + head + bytes(24)
    path.write_bytes(whole)
    assert read_header(path)["a"].elements == 6
    assert read_header(path)["a"].size == 24
    for cut, message in ((len(whole) - 1, "cut short"), (20, "cut short in its header"), (3, "not a safetensors file")):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=message):
            read_header(path)
    path.write_bytes(struct.pack("<Q", 4) + b"nope")
    with pytest.raises(UserError, match="can't be read"):
        read_header(path)
