"""Data of the hub: fetched, checked, locked, and read from the lock alone; every fault is one line with a mend."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import parquet_rows
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from local_hub import COMMIT, Hub, served
from places import ROOT
from typer.testing import CliRunner

from mllm_eval.catalog import load_benchmark, paper_benchmarks
from mllm_eval.catalog.benchmark import Benchmark
from mllm_eval.cli.app import app
from mllm_eval.data import images
from mllm_eval.data.snapshotlock import lock_path, matching, read_lock
from mllm_eval.data.snapshots import ids_hash, load_samples
from mllm_eval.errors import UserError
from mllm_eval.hub import Source
from mllm_eval.hub.fetch import fetch_files, folder_for
from mllm_eval.pipeline.datasets import lock_data, locked_or_told
from mllm_eval.storage import sha256_bytes

SECRET = "hf_thisMustNeverBeWritten"
SIXTEEN = paper_benchmarks()
OTHER_PINS = [("mmbench_en", "hub_v1_1"), ("mmvp", "hub_corrected"), ("docvqa", "hub_test")]
CHARTS = "datasets/lmms-lab/ChartQA"
TABLE = "data/test-00000-of-00001.parquet"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    images.columns.clear()
    with served(tmp_path, monkeypatch) as found:
        yield found


def pinned(name: str, pin: str = "hub", **facts: Any) -> Benchmark:
    """A benchmark that has this one pin, of any number of rows and of any commit unless said."""
    benchmark = load_benchmark(name)
    asked = {"rows": None, "ids": None, "revision": None, **facts}
    return benchmark.model_copy(update={"data": {pin: benchmark.data[pin].model_copy(update=asked)}})


def files_of(folder: Path, benchmark: Benchmark, rows: list[dict[str, Any]]) -> dict[str, bytes]:
    """Rows as the hub has them: the files of the benchmark's one pin, in upstream's names."""
    (pin,) = benchmark.data.values()
    home = folder / "upstream"
    shutil.rmtree(home, ignore_errors=True)
    written = parquet_rows.write_mini(home, benchmark.model_copy(update={"data": {"mini": pin}}), rows)
    if written.suffix == ".parquet":
        table = pq.read_table(written)
        own = {name: head for head, name in benchmark.aliases.items() if head != "lndex"}
        pq.write_table(table.rename_columns([own.get(name, name) for name in table.column_names]), written)
    root = home / pin.repo
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def publish(hub: Hub, tmp_path: Path) -> Callable[..., Benchmark]:
    """Put a few rows of a benchmark on the hub, beside files that nobody needs."""

    def put(name: str, pin: str = "hub", rows: list[dict[str, Any]] | None = None, **facts: Any) -> Benchmark:
        benchmark = pinned(name, pin, **facts)
        files = files_of(tmp_path, benchmark, rows or parquet_rows.rows_of(name))
        unneeded = {"README.md": b"a card", "data/train-00000-of-00001.parquet.gz": b"never fetched"}
        hub.repos[f"datasets/{benchmark.data[pin].repo}"] = {**files, **unneeded}
        return benchmark

    return put


def transfers(hub: Hub) -> list[str]:
    return [path for command, path, _ in hub.asked if command == "GET" and "/resolve/" in path]


@pytest.mark.parametrize(("name", "pin"), [*((name, "hub") for name in SIXTEEN), *OTHER_PINS])
def test_every_pin_is_fetched_locked_and_read_offline(
    name: str, pin: str, hub: Hub, publish: Callable[..., Benchmark], tmp_path: Path
) -> None:
    benchmark = publish(name, pin)
    assert lock_data([benchmark], pin)
    assert not any(path.endswith((".md", ".gz")) for path in transfers(hub))
    lock = read_lock(benchmark, pin)
    assert lock is not None and lock.data is not None and lock.data.trusted == ["revision", "rows", "ids"]
    assert {table.commit for table in lock.parts.values()} == {COMMIT}
    assert str(tmp_path) not in lock_path(name, pin).read_text()
    hub.asked.clear()
    samples = load_samples(benchmark, pin)
    assert hub.asked == []
    assert lock.data.ids == ids_hash([sample.id for sample in samples]) and lock.data.samples == len(samples) > 0
    assert all(image.load().size == (6, 4) for sample in samples for image in sample.images)


def test_what_is_here_asks_the_hub_nothing(hub: Hub, publish: Callable[..., Benchmark]) -> None:
    benchmark = publish("chartqa")
    lock_data([benchmark], "hub")
    hub.asked.clear()
    assert not lock_data([benchmark], "hub")
    assert not lock_data([benchmark], "hub", offline=True)
    assert hub.asked == []


def test_a_locked_data_set_stays_at_its_commit_when_the_hub_moves_on(
    hub: Hub, publish: Callable[..., Benchmark], tmp_path: Path
) -> None:
    benchmark = publish("chartqa")
    lock_data([benchmark], "hub")
    before = lock_path("chartqa", "hub").read_bytes()
    hub.past[CHARTS, COMMIT] = hub.repos[CHARTS]
    hub.heads[CHARTS] = "d" * 40
    publish("chartqa", rows=parquet_rows.rows_of("chartqa") * 2)
    shutil.rmtree(tmp_path / "data" / "hub")
    lock_data([benchmark], "hub")
    assert lock_path("chartqa", "hub").read_bytes() == before and len(load_samples(benchmark, "hub")) == 1
    lock_path("chartqa", "hub").unlink()
    lock_data([benchmark], "hub")
    assert len(load_samples(benchmark, "hub")) == 2


def test_a_lock_from_elsewhere_holds_the_fetch_here(
    hub: Hub, publish: Callable[..., Benchmark], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = publish("chartqa")
    lock_data([benchmark], "hub")
    brought = lock_path("chartqa", "hub").read_bytes()
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path / "other"))
    lock_path("chartqa", "hub").parent.mkdir(parents=True)
    lock_path("chartqa", "hub").write_bytes(brought)
    with pytest.raises(UserError, match=r"never fetched here; run `mllm-eval data chartqa --data hub`"):
        load_samples(benchmark, "hub")
    publish("chartqa", rows=parquet_rows.rows_of("chartqa") * 2)
    with pytest.raises(UserError, match=r"another file than in the lock .*chartqa\.hub\.json; delete the lock if"):
        lock_data([benchmark], "hub")
    publish("chartqa")
    assert lock_data([benchmark], "hub") and len(load_samples(benchmark, "hub")) == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "cut short: 100 bytes"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"), "its SHA-256 is"),
        (lambda path: path.unlink(), "the file is gone"),
    ],
)
def test_a_spoilt_file_is_refused_and_fetched_again(
    spoil: Callable[[Path], Any], message: str, hub: Hub, publish: Callable[..., Benchmark], tmp_path: Path
) -> None:
    benchmark = publish("chartqa")
    lock_data([benchmark], "hub")
    (path,) = (tmp_path / "data").rglob("test-*.parquet")
    spoil(path)
    for look in (
        lambda: load_samples(benchmark, "hub"),
        lambda: lock_data([benchmark], "hub", offline=True),
        lambda: locked_or_told([benchmark], "hub"),
    ):
        with pytest.raises(UserError, match=rf"{message}.*run `mllm-eval data chartqa --data hub`"):
            look()
    assert lock_data([benchmark], "hub") and load_samples(benchmark, "hub")


def test_rows_ids_and_columns_that_are_not_the_yamls_lock_nothing(
    hub: Hub, publish: Callable[..., Benchmark], tmp_path: Path
) -> None:
    publish("seed")
    for facts, message in (
        ({"rows": 4}, r"has 3 rows, its pin 'hub' says 4.*Correct `revision` or `rows` in .*seed/benchmark\.yaml"),
        ({"ids": ids_hash(["0", "1"])}, r"ids of lmms-lab/SEED-Bench differ .*Correct `revision` or `ids`"),
        ({"columns": {"choice_e": "string"}}, r"column 'choice_e' is missing\. Did you mean 'choice_"),
        ({"columns": {"question_type_id": "string"}}, "column 'question_type_id' is int64, expected string"),
        ({"path": "data/val-*.parquet"}, r"has no files data/val-\*\.parquet \(but README\.md"),
    ):
        with pytest.raises(UserError, match=message):
            lock_data([pinned("seed", **facts)], "hub")
        assert not lock_path("seed", "hub").exists()
    # What was fetched before the fault was found is not fetched again once it is mended.
    hub.asked.clear()
    assert lock_data([pinned("seed", rows=3, ids=ids_hash(["0", "2"]), revision=COMMIT)], "hub")
    assert transfers(hub) == []
    lock = read_lock(pinned("seed"), "hub")
    assert lock is not None and lock.data is not None
    assert (lock.data.trusted, lock.data.rows, lock.data.samples) == ([], 3, 2)


def test_a_yaml_that_moved_away_from_the_lock_is_refused(hub: Hub, publish: Callable[..., Benchmark]) -> None:
    lock_data([publish("chartqa")], "hub")
    for facts, message in (
        ({"revision": "e" * 40}, f"locked revision {COMMIT}, but .*chartqa/benchmark.yaml now says {'e' * 40}"),
        ({"rows": 2}, "locked rows 1, but .* now says 2; correct the yaml, or delete the lock and run `mllm-eval data"),
        ({"repo": "lmms-lab/Charts"}, "locked repo lmms-lab/ChartQA, but .* now says lmms-lab/Charts"),
        ({"path": "data/val-*.parquet"}, "locked path data/test-00000-of-00001.parquet, but"),
    ):
        for look in (load_samples, lambda benchmark, pin: lock_data([benchmark], pin)):
            with pytest.raises(UserError, match=message):
                look(pinned("chartqa", **facts), "hub")


def test_two_sets_of_parts_under_one_glob_are_refused(hub: Hub, publish: Callable[..., Benchmark]) -> None:
    benchmark = publish("mme")
    (name,) = matching(hub.repos["datasets/lmms-lab/MME"], "data/test-*.parquet")
    table = hub.repos["datasets/lmms-lab/MME"].pop(name)
    parts = {f"data/test-0000{k}-of-00002-{tag}.parquet": table for k in (0, 1) for tag in ("old", "new")}
    hub.repos["datasets/lmms-lab/MME"].update(parts)
    with pytest.raises(UserError, match=r"4 files like data/test-0000.* are not the 2 parts of one table"):
        lock_data([benchmark], "hub")
    assert transfers(hub) == []


def test_a_fetch_that_was_stopped_goes_on_inside_the_file(
    hub: Hub, publish: Callable[..., Benchmark], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    benchmark = publish("textvqa")
    told: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        told.append((done, total))
        if done > 2500 and not stopped:
            stopped.append(done)
            raise KeyboardInterrupt

    stopped: list[int] = []
    source = Source("dataset", "lmms-lab/textvqa", None)

    def wanted(names: Any) -> list[str]:
        return matching(names, "data/validation-*.parquet")

    with pytest.raises(KeyboardInterrupt):
        fetch_files(source, wanted, stop)
    (part,) = (tmp_path / "data").rglob("*.part")
    assert part.stat().st_size == 2000
    hub.asked.clear()
    fetch_files(source, wanted, stop)
    assert [headers["Range"] for _, _, headers in hub.asked if "Range" in headers] == ["bytes=2000-"]
    assert told[-1][0] == told[-1][1] and not list((tmp_path / "data").rglob("*.part"))
    assert lock_data([benchmark], "hub") and len(transfers(hub)) == 1


def test_a_connection_that_breaks_is_picked_up_again(
    hub: Hub, publish: Callable[..., Benchmark], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(file_download.time, "sleep", lambda _: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)
    benchmark = publish("chartqa")
    hub.short[TABLE] = len(hub.repos[CHARTS][TABLE]) // 3
    lock_data([benchmark], "hub")
    assert len(transfers(hub)) >= 3 and load_samples(benchmark, "hub")
    lock_path("chartqa", "hub").unlink()
    for path in lock_path("chartqa", "hub").parent.parent.glob("hub/**/*.parquet"):
        path.unlink()
    hub.short[TABLE] = 0
    with pytest.raises(UserError, match=r"lmms-lab/ChartQA@main: a file arrived cut short .* to go on"):
        lock_data([benchmark], "hub")
    hub.short.clear()
    assert lock_data([benchmark], "hub")


def test_bytes_that_the_hub_did_not_list_are_thrown_away(
    hub: Hub, publish: Callable[..., Benchmark], tmp_path: Path
) -> None:
    benchmark = publish("chartqa")
    size = len(hub.repos[CHARTS][TABLE])
    source = Source("dataset", "lmms-lab/ChartQA", None, "run it again")
    with pytest.raises(KeyboardInterrupt):
        fetch_files(source, lambda _: [TABLE], lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    folder = folder_for("lmms-lab/ChartQA", COMMIT)
    sha = sha256_bytes(hub.repos[CHARTS][TABLE])
    part = folder / "data" / f".{Path(TABLE).name}.{sha[:12]}.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(b"x" * (size // 2))
    with pytest.raises(UserError, match=r"did not arrive as the hub lists it; run it again"):
        fetch_files(source, lambda _: [TABLE], lambda *_: None)
    assert not part.exists()
    assert lock_data([benchmark], "hub")


def test_what_the_hub_refuses_is_one_line_with_the_mend(
    hub: Hub, publish: Callable[..., Benchmark], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    benchmark = publish("chartqa")
    with pytest.raises(UserError, match=r"lmms-lab/ChartQA@v9: the hub has no revision 'v9' of it"):
        lock_data([pinned("chartqa", revision="v9")], "hub")
    with pytest.raises(UserError, match=r"lmms-lab/Chart@main: the hub has no such repository"):
        lock_data([pinned("chartqa", repo="lmms-lab/Chart")], "hub")
    hub.gated.add(CHARTS)
    with pytest.raises(UserError, match=r"gated; accept its licence at https://.*ChartQA, log in with `hf auth login`"):
        lock_data([benchmark], "hub")
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert lock_data([benchmark], "hub")
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written and not any(SECRET.encode() in path.read_bytes() for path in written)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert load_samples(benchmark, "hub") and not lock_data([benchmark], "hub")
    with pytest.raises(UserError, match=r"MME@main: the hub can't be reached .*--from DIR"):
        lock_data([pinned("mme")], "hub")
    assert not lock_path("mme", "hub").exists()


def test_a_data_set_that_was_renamed_is_found(hub: Hub, publish: Callable[..., Benchmark]) -> None:
    benchmark = publish("chartqa")
    hub.repos["datasets/lmms-lab-encoder/ChartQA"] = hub.repos.pop(CHARTS)
    hub.moved[CHARTS] = "datasets/lmms-lab-encoder/ChartQA"
    assert lock_data([benchmark], "hub") and load_samples(benchmark, "hub")


def test_a_disk_without_room_is_told_before_anything_is_fetched(
    hub: Hub, publish: Callable[..., Benchmark], monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = publish("chartqa")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=100, used=90, free=10))
    with pytest.raises(UserError, match=r"are still to fetch, 0\.0 GB are free; make room, or set MLLM_EVAL_DATA"):
        lock_data([benchmark], "hub")
    assert transfers(hub) == []


def test_a_data_home_that_cannot_be_written_is_named(
    hub: Hub, publish: Callable[..., Benchmark], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    benchmark = publish("chartqa")
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"file/hub/lmms-lab/ChartQA@.*: Not a directory; set MLLM_EVAL_DATA"):
        lock_data([benchmark], "hub")
    copies = tmp_path / "copies"
    for file, data in hub.repos[CHARTS].items():
        (copies / file).parent.mkdir(parents=True, exist_ok=True)
        (copies / file).write_bytes(data)
    monkeypatch.setattr("mllm_eval.data.lockmaking.read_lock", lambda *_: None)
    with pytest.raises(UserError, match=r"chartqa\.hub\.json: Not a directory; set MLLM_EVAL_DATA"):
        lock_data([benchmark], "hub", copies)


LAYOUTS = [
    "{repo}",
    "{name}",
    ".",
    "datasets--{owner}--{name}/snapshots/" + COMMIT,
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["chartqa", "gqa", "mmvp"])
def test_a_folder_stands_for_the_hub(
    name: str, layout: str, hub: Hub, publish: Callable[..., Benchmark], tmp_path: Path
) -> None:
    benchmark = publish(name)
    repo = benchmark.data["hub"].repo
    owner, _, base = repo.partition("/")
    root = tmp_path / "copies"
    folder = root / layout.format(repo=repo, owner=owner, name=base)
    for file, data in hub.repos[f"datasets/{repo}"].items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(data)
    if "snapshots" in layout:
        ref = folder.parent.parent / "refs" / "main"
        ref.parent.mkdir()
        ref.write_text(COMMIT)
    assert lock_data([benchmark], "hub", root)
    assert hub.asked == [] and load_samples(benchmark, "hub")
    lock = read_lock(benchmark, "hub")
    assert lock is not None
    assert lock.parts["questions"].commit == (COMMIT if "snapshots" in layout else None)
    # Brought files and fetched ones are the same files: the hub only adds the commit.
    lock_path(name, "hub").with_suffix(".place").unlink()
    assert lock_data([benchmark], "hub")
    again = read_lock(benchmark, "hub")
    assert again is not None and again.parts["questions"].commit == COMMIT
    assert again.parts["questions"].files == lock.parts["questions"].files


def test_a_folder_without_the_files_says_where_it_looked(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "copies").mkdir()
    with pytest.raises(UserError, match=r"copies: no files data/test-\*\.parquet of lmms-lab/ChartQA in it, nor in"):
        lock_data([pinned("chartqa")], "hub", tmp_path / "copies")
    with pytest.raises(UserError, match=r"gone: no such folder"):
        lock_data([pinned("chartqa")], "hub", tmp_path / "gone")


def test_nothing_is_read_of_the_hub_without_a_lock(hub: Hub, publish: Callable[..., Benchmark], tmp_path: Path) -> None:
    benchmark = publish("chartqa")
    path = tmp_path / "data" / "lmms-lab" / "ChartQA" / TABLE
    path.parent.mkdir(parents=True)
    path.write_bytes(hub.repos[CHARTS][TABLE])
    for look in (
        lambda: load_samples(benchmark, "hub"),
        lambda: lock_data([benchmark], "hub", offline=True),
        lambda: locked_or_told([benchmark], "hub"),
    ):
        with pytest.raises(UserError, match=r"not on this machine, or not locked; run `mllm-eval data chartqa"):
            look()
    assert hub.asked == []
    # The copy that lies there can be taken.
    assert lock_data([benchmark], "hub", tmp_path / "data") and load_samples(benchmark, "hub")


def test_locks_of_older_versions_are_read(hub: Hub, publish: Callable[..., Benchmark]) -> None:
    benchmark = publish("cvbench_2d")
    lock_data([benchmark], "hub")
    path = lock_path("cvbench_2d", "hub")
    lock = json.loads(path.read_text())
    tables = {name: {k: v for k, v in part.items() if k != "kind"} for name, part in lock["parts"].items()}
    path.write_text(json.dumps({**lock["data"], "tables": tables}))
    assert not lock_data([benchmark], "hub") and load_samples(benchmark, "hub")
    found = read_lock(benchmark, "hub")
    assert found is not None and found.model_dump(mode="json") == lock


def test_a_damaged_lock_is_named(hub: Hub, publish: Callable[..., Benchmark]) -> None:
    benchmark = publish("chartqa")
    lock_data([benchmark], "hub")
    lock_path("chartqa", "hub").write_text('{"benchmark": "chartqa"')
    with pytest.raises(UserError, match=r"chartqa\.hub\.json:1: not valid JSON"):
        load_samples(benchmark, "hub")
    lock_path("chartqa", "hub").write_text(json.dumps({"data": None}))
    with pytest.raises(UserError, match=r"chartqa\.hub\.json: key 'parts' is missing"):
        load_samples(benchmark, "hub")


@pytest.fixture
def own(hub: Hub, publish: Callable[..., Benchmark], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's benchmark `mycharts` whose data are on the hub; its folder."""
    publish("chartqa")
    folder = tmp_path / "own" / "benchmarks" / "mycharts"
    shutil.copytree(Path(str(load_benchmark("chartqa").folder)), folder)
    said = yaml.safe_load((folder / "benchmark.yaml").read_text())
    said |= {"name": "mycharts", "scorer": "chartqa"}
    said["data"] = {"hub": {**said["data"]["hub"], "rows": 1}, "mini": {**said["data"]["mini"], "rows": 1}}
    (folder / "benchmark.yaml").write_text(yaml.safe_dump(said))
    monkeypatch.setenv("MLLM_EVAL_PATH", str(tmp_path / "own"))
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    return folder


def call(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["data", *words])
    return done.exit_code, done.output


@pytest.mark.slow
def test_the_command_line_fetches_shows_and_compares(hub: Hub, own: Path) -> None:
    code, said = call("mycharts")
    assert code == 0 and "mycharts: 1 rows, " in said
    assert f"lmms-lab/ChartQA@{COMMIT[:14]}; trusted on first use: revision, ids" in said and said.endswith(": made\n")
    code, said = call("mycharts", "--data", "hub")
    assert code == 0 and said.endswith(": complete, nothing to do\n")
    assert call("mycharts", "--offline")[0] == 0
    code, said = call("mycharts", "--data", "hubb")
    assert code == 2 and "mycharts has no data pin 'hubb'. Did you mean 'hub'?" in said
    code, said = call("mycharts", "--recipe", "mini")
    assert code == 2 and "--recipe cannot be combined with benchmarks" in said
    code, said = call("--data", "nowhere")
    assert code == 2 and "no benchmark has data 'nowhere'" in said
    code, said = call("mycharts", "--data", "mini", "--offline")
    assert code == 2 and "--from and --offline are for data of the hub" in said


@pytest.mark.slow
def test_the_page_shows_what_the_command_prints(hub: Hub, publish: Callable[..., Benchmark]) -> None:
    publish("chartqa", rows=parquet_rows.rows_of("chartqa") * 2500)
    (block,) = re.findall(r"```\n\$ mllm-eval (.*?)```", (ROOT / "docs/data.md").read_text(), re.DOTALL)
    line, _, shown = block.partition("\n")
    done = CliRunner().invoke(app, line.split())
    assert OutputChecker().check_output(shown, done.output, ELLIPSIS | NORMALIZE_WHITESPACE), done.output


def test_types_may_be_one_of_several_and_text_becomes_the_number(hub: Hub, publish: Callable[..., Benchmark]) -> None:
    benchmark = publish("mmbench_en", "hub_v1_1")
    repo = hub.repos["datasets/lmms-lab/MMBench"]
    (name,) = matching(repo, "en/dev-*.parquet")
    table = pq.read_table(io.BytesIO(repo[name]))
    assert "L2-category" in table.column_names
    indices = [str(value) for value in table["index"].to_pylist()]
    at = table.column_names.index("index")
    sink = io.BytesIO()
    pq.write_table(table.set_column(at, "index", pa.array(indices)), sink)
    repo[name] = sink.getvalue()
    lock_data([benchmark], "hub_v1_1")
    samples = load_samples(benchmark, "hub_v1_1")
    assert [sample.record["index"] for sample in samples] == [7, 1_000_007]
    assert {sample.group for sample in samples} == {"7"}
    assert "l2-category" in samples[0].record and "L2-category" not in samples[0].record


def test_a_glob_matches_as_in_a_folder() -> None:
    names = ["data/test-0.parquet", "data/old/test-1.parquet", "test-2.parquet", "data/.test-3.parquet.part"]
    assert matching(names, "data/test-*.parquet") == ["data/test-0.parquet"]
    assert matching(names, "*-2.parquet") == ["test-2.parquet"]
    assert matching(names, "data/*") == ["data/test-0.parquet"]
