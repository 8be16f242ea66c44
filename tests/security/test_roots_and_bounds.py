"""No path leaves its root, counts and sizes are bounded, and no code comes with weights or data."""

from __future__ import annotations

import ast
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from tiny_models import make_encoder, make_llm

from mllm_eval import decoding
from mllm_eval.adapters import load_encoder_model, loading
from mllm_eval.catalog.benchmark import Pin
from mllm_eval.catalog.probe import ProbeData
from mllm_eval.data.conversations import parse
from mllm_eval.data.tables import rows_of
from mllm_eval.errors import UserError
from mllm_eval.hub import fetch as fetching
from mllm_eval.hub.lock import Lock, Source
from mllm_eval.hub.safetensors_header import shards_of
from mllm_eval.model.checkpoint import load_llm_model
from mllm_eval.probes import locking
from mllm_eval.probes.layouts import read_examples
from mllm_eval.storage import PACKAGE, SHIPPED, within

LEAVING = ["../up.png", "a/../../up.png", "/etc/hostname", "~/x.png", ".."]
SOURCES = [*PACKAGE.rglob("*.py"), *(SHIPPED / "adapters").glob("*.py"), *(SHIPPED / "benchmarks").rglob("*.py")]


@pytest.mark.parametrize("name", [*LEAVING, "", "a\0b"])
def test_a_name_that_leaves_its_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leaves the folder"):
        within(tmp_path, name)


def test_names_below_a_folder_are_its_files(tmp_path: Path) -> None:
    for name in ("a.png", "a/b.png", "a b/ü..png", "...x"):
        assert within(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize("name", LEAVING)
@pytest.mark.parametrize("field", ["image", "images"])
def test_training_rows_name_images_below_their_root(field: str, name: str) -> None:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A"}]
    value = name if field == "image" else [name]
    with pytest.raises(ValueError, match="leaves the image root"):
        parse({field: value, "conversations": turns})


@pytest.mark.parametrize("name", LEAVING)
def test_cells_of_a_csv_name_images_beside_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path))
    (tmp_path / "in").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "up.png")
    path = tmp_path / "in/x.csv"
    path.write_text(f"image,question\n{name},Q?\n")
    pin = Pin(repo="in", split="test", path="x.csv", columns={"image": "string"}, image_files="{image}")
    with pytest.raises(UserError, match=r"x\.csv row 1: its image .* leaves the folder"):
        list(rows_of(pin, {}, [path]))


@pytest.mark.parametrize("name", LEAVING)
def test_locks_and_a_hubs_lists_name_files_below_their_folder(name: str) -> None:
    part = {"kind": "model", "repo": "a/b", "revision": None, "commit": None}
    with pytest.raises(ValueError, match="leaves the folder"):
        Lock.model_validate({"parts": {"files": {**part, "files": {name: {"size": 1, "sha256": "0" * 64}}}}})
    with pytest.raises(UserError, match="nothing was fetched"):
        fetching.hold_names(Source("model", "a/b"), "c" * 40, {name: _listed("0" * 40)})


class _listed:
    lfs = None

    def __init__(self, blob: str) -> None:
        self.blob_id = blob


@pytest.mark.parametrize(("commit", "blob"), [("../x", "0" * 40), ("c" * 40, "../../x"), ("c" * 40, "")])
def test_hashes_that_a_hub_gives_are_hashes(commit: str, blob: str) -> None:
    with pytest.raises(UserError, match="is no hash"):
        fetching.hold_names(Source("model", "a/b"), commit, {"config.json": _listed(blob)})
    fetching.hold_names(Source("model", "a/b"), "c" * 40, {"config.json": _listed("0" * 40)})


@pytest.mark.parametrize("name", [*LEAVING, "sub/model.safetensors"])
def test_an_index_names_shards_beside_it(name: str, tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path / "e")
    index = tmp_path / "e/model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(UserError, match="no file beside it"):
        shards_of(index)
    with pytest.raises(UserError, match="no file beside it"):
        load_encoder_model(encoder)


def test_a_list_of_images_stays_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("up.png", "depth.png"):
        Image.new("L", (2, 2)).save(tmp_path / name)
    for name in ("train.txt", "test.txt"):
        (tmp_path / "in" / name).write_text("../up.png ../depth.png 518.8\n")
    data = ProbeData(layout="nyu", source="folder", train="train.txt", test="test.txt")
    with pytest.raises(UserError, match=r"train\.txt:1: .* leaves the folder"):
        read_examples(data, tmp_path / "in")


def packed(path: Path, name: str, mode: int = 0o100644, count: int = 1) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            member = zipfile.ZipInfo(name.format(number))
            member.external_attr = mode << 16
            archive.writestr(member, "data")
    return path


@pytest.mark.parametrize(
    ("name", "mode", "said"),
    [("../up.txt", 0o100644, "leaves the folder"), ("/etc/x", 0o100644, "leaves the folder"),
     ("a/../../x", 0o100644, "leaves the folder"), ("link", 0o120777, "is a link")],
)  # fmt: skip
def test_members_of_an_archive_stay_in_its_folder(name: str, mode: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match=said):
        locking.unpack(packed(tmp_path / "in/x.zip", name, mode))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["in", "x.zip"]
    assert (locking.unpack(packed(tmp_path / "in/y.zip", "a/b.txt")) / "a/b.txt").read_text() == "data"


def test_an_archive_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(tmp_path / "x.zip", "{}.txt", count=4)
    for bound, value in (("MEMBERS", 3), ("UNPACKED", 15)):
        with monkeypatch.context() as patch:
            patch.setattr(locking, bound, value)
            with pytest.raises(UserError, match="are unpacked"):
                locking.unpack(path)
    assert len(list(locking.unpack(path).iterdir())) == 4


def test_pictures_are_of_the_formats_that_data_sets_have() -> None:
    plain = io.BytesIO()
    Image.new("RGB", (4, 4)).save(plain, "PCX")
    for data in (plain.getvalue(), b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n%%EOF\n"):
        with pytest.raises(UserError, match="can't be decoded"):
            decoding.decode(data, "x")
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "PPM", "WEBP"):
        held = io.BytesIO()
        Image.new("RGB", (4, 4)).save(held, kind)
        assert decoding.decode(held.getvalue(), "x").size == (4, 4)


def test_pixels_are_bounded_wherever_a_picture_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(decoding, "MAX_PIXELS", 15)
    Image.new("L", (4, 4)).save(tmp_path / "x.png")
    data = (tmp_path / "x.png").read_bytes()
    readers: list[Any] = [
        lambda: decoding.decode(data, "x"), lambda: decoding.load_image(tmp_path / "x.png"),
        lambda: decoding.load_map(tmp_path / "x.png"), lambda: decoding.peculiar(tmp_path / "x.png", "x"),
        lambda: decoding.size_of(data), lambda: decoding.look_at_image(tmp_path / "x.png"),
    ]  # fmt: skip
    for read in readers:
        with pytest.raises(UserError, match="more than 15 in all"):
            read()


@pytest.mark.parametrize("change", [{"intermediate_size": 2**22}, {"num_hidden_layers": 10**7}])
def test_a_config_that_says_more_than_the_files_hold_takes_no_memory(
    change: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = make_llm(tmp_path / "l")
    path = tmp_path / "l/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    from transformers import LlamaForCausalLM

    def loads(*_: Any, **__: Any) -> Any:
        raise AssertionError("memory is taken")

    monkeypatch.setattr(LlamaForCausalLM, "_load_pretrained_model", loads, raising=False)
    with pytest.raises(UserError, match=r"parameters, its files hold|num_hidden_layers"):
        load_llm_model(llm)


def test_layers_of_any_part_are_bounded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"text_config\.num_hidden_layers: 5000"):
        loading.hold_layers({"text_config": {"num_hidden_layers": 5000}}, tmp_path)
    loading.hold_layers({"text_config": {"num_hidden_layers": 126}, "layers": None}, tmp_path)


# What may stand in the package all the same, and why.
ALLOWED = {
    ("catalog/families.py", "exec"): "a family of encoders of one's own is a file of code that the user put there",
    ("shelf.py", "pickle.loads"): "a nameless temporary file that the same process has written",
}


def _called(node: ast.Call) -> str:
    parts: list[str] = []
    at: ast.expr = node.func
    while isinstance(at, ast.Attribute):
        parts, at = [at.attr, *parts], at.value
    return ".".join([at.id, *parts]) if isinstance(at, ast.Name) else ".".join(["", *parts])


def _faults(tree: ast.AST) -> list[str]:
    """Calls that run what a file says, or hand words to a shell."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name, options = _called(node), {one.arg: one.value for one in node.keywords}
        said = {key: value.value for key, value in options.items() if isinstance(value, ast.Constant)}
        if name in ("eval", "exec", "os.system", "os.popen", "marshal.loads", "shelve.open", "dill.loads"):
            found.append(name)
        if name in ("pickle.load", "pickle.loads", "pickle.Unpickler", "pd.read_pickle", "joblib.load"):
            found.append(name)
        if name == "torch.load" and said.get("weights_only") is not True:
            found.append(name)
        if name in ("np.load", "numpy.load") and said.get("allow_pickle", False):
            found.append(name)
        if name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"):
            found.append(name)
        if said.get("trust_remote_code", False) or ("trust_remote_code" in options and "trust_remote_code" not in said):
            found.append(f"{name}(trust_remote_code)")
        if said.get("shell", False) or (name.startswith("subprocess.") and "shell" in options and "shell" not in said):
            found.append(f"{name}(shell)")
        told = said.get("trust_remote_code") is False or any(one.arg is None for one in node.keywords)
        if name.endswith(".from_pretrained") and name.startswith(("Auto", "transformers.")) and not told:
            found.append(f"{name} without trust_remote_code=False")
    return found


@pytest.mark.slow
def test_nothing_in_the_package_runs_what_a_file_says() -> None:
    found = {}
    for path in SOURCES:
        name = str(path.relative_to(PACKAGE)) if path.is_relative_to(PACKAGE) else path.name
        for fault in _faults(ast.parse(path.read_text(encoding="utf-8"))):
            found[(name, fault)] = path
    assert set(found) == set(ALLOWED)


@pytest.mark.parametrize(
    "text",
    ["eval('1')", "pickle.load(f)", "torch.load(p)", "torch.load(p, weights_only=False)", "yaml.load(t)",
     "subprocess.run('ls', shell=True)", "AutoModel.from_pretrained(p, trust_remote_code=True)",
     "AutoModel.from_pretrained(p)", "np.load(p, allow_pickle=True)", "load(p, trust_remote_code=given)"],
)  # fmt: skip
def test_such_calls_are_seen(text: str) -> None:
    assert _faults(ast.parse(text))


def test_yaml_makes_plain_data_alone(tmp_path: Path) -> None:
    from mllm_eval import config

    path = tmp_path / "x.yaml"
    path.write_text("a: !!python/name:os.getcwd\n")
    with pytest.raises(UserError, match="not valid yaml"):
        config.key_lines(path)
    assert issubclass(config.StrictLoader, (yaml.SafeLoader, yaml.CSafeLoader))
