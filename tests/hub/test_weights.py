"""`mllm-eval weights`: from a hub to a locked folder that loads, and what is refused on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from local_hub import COMMIT, Hub, served
from tiny_models import make_encoder, make_llm
from typer.testing import CliRunner

from mllm_eval.adapters import load_encoder_model, weights_place
from mllm_eval.catalog import LLM, Encoder
from mllm_eval.cli.app import app
from mllm_eval.errors import UserError
from mllm_eval.hub import read_lock
from mllm_eval.model import load_llm_model, load_tokenizer
from mllm_eval.pipeline.provision import needed_files, provide_weights


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("MLLM_EVAL_PATH", str(tmp_path))
    with served(tmp_path, monkeypatch) as found:
        yield found


def upload(hub: Hub, folder: Path, repo: str) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.repos[f"models/{repo}"] = {**files, "README.md": b"# card", "original/consolidated.pth": b"no"}


def remote(one: Any, repo: str, revision: str | None = COMMIT) -> Any:
    return one.model_copy(update={"weights": one.weights.model_copy(
        update={"path": None, "repo": repo, "revision": revision})})  # fmt: skip


@pytest.fixture
def encoder(hub: Hub, tmp_path: Path) -> Encoder:
    made = make_encoder(tmp_path / "made" / "encoder")
    upload(hub, tmp_path / "made" / "encoder", "owner/encoder")
    found: Encoder = remote(made, "owner/encoder")
    return found


@pytest.fixture
def llm(hub: Hub, tmp_path: Path) -> LLM:
    made = make_llm(tmp_path / "made" / "llm")
    upload(hub, tmp_path / "made" / "llm", "owner/llm")
    found: LLM = remote(made, "owner/llm")
    return found


def test_only_what_loading_reads_is_chosen() -> None:
    both = ["README.md", "config.json", "model.safetensors", "pytorch_model.bin", "tf_model.h5", "tokenizer.json"]
    assert needed_files(both) == ["config.json", "model.safetensors", "tokenizer.json"]
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    assert needed_files([*shards, "config.json", "original/params.json"]) == sorted([*shards, "config.json"])
    twice = ["open_clip_model.safetensors", "model.safetensors", "pytorch_model.bin.index.json", "config.json"]
    assert needed_files(twice) == ["config.json", "model.safetensors"]
    assert needed_files(["config.json", "pytorch_model.bin", "flax_model.msgpack"]) == [
        "config.json",
        "pytorch_model.bin",
    ]


def test_fetched_weights_are_locked_and_load_without_the_hub(hub: Hub, encoder: Encoder, llm: LLM) -> None:
    for weights in (encoder.weights, llm.weights):
        with pytest.raises(UserError, match="not on this machine; fetch and lock them with `mllm-eval weights`"):
            weights_place(weights)
    found = provide_weights([encoder, llm])
    assert [one.lock.only.commit for one in found if one.lock] == [COMMIT, COMMIT]
    assert all(one.lock and "README.md" not in one.lock.only.files for one in found)
    hub.asked.clear()
    load_encoder_model(encoder)
    load_llm_model(llm)
    load_tokenizer(llm, "llama_3_meta")
    provide_weights([encoder, llm])
    assert hub.asked == []


def test_a_run_refuses_weights_that_are_not_the_locks(hub: Hub, encoder: Encoder) -> None:
    (found,) = provide_weights([encoder])
    path = (found.place / "model.safetensors").resolve()
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(UserError, match=r"cut short: .* the lock of owner/encoder@"):
        load_encoder_model(encoder)
    with pytest.raises(UserError, match="cut short"):
        provide_weights([encoder], offline=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 64}, "width"),
        ({"family": "clip"}, "the weights are of type 'dinov2'"),
        ({"depth": 3}, "depth"),
        ({"params": 10_000_000}, "parameters in its files, tiny-dinov2's yaml says 10,000,000"),
    ],
)
def test_another_architecture_is_refused_and_not_locked(
    hub: Hub, encoder: Encoder, change: dict[str, Any], message: str
) -> None:
    wrong = encoder.model_copy(update=change)
    with pytest.raises(UserError, match=message):
        provide_weights([wrong])
    source = encoder.weights.source()
    assert source is not None and read_lock(source) is None


def test_another_llm_is_refused(hub: Hub, llm: LLM) -> None:
    with pytest.raises(UserError, match=r"hidden_size is 64, the yaml of llm tiny-llama says width: 32; correct it"):
        provide_weights([llm.model_copy(update={"width": 32})])


def test_a_missing_shard_is_named(hub: Hub, llm: LLM, tmp_path: Path) -> None:
    made = load_llm_model(llm.model_copy(update={"weights": type(llm.weights)(path=str(tmp_path / "made" / "llm"))}))
    sharded = tmp_path / "sharded"
    made.save_pretrained(sharded, max_shard_size="100KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (sharded / name).write_bytes((tmp_path / "made" / "llm" / name).read_bytes())
    upload(hub, sharded, "owner/sharded")
    whole = remote(llm, "owner/sharded")
    assert provide_weights([whole])[0].lock
    lost = sorted(name for name in hub.repos["models/owner/sharded"] if "-of-" in name)[1]
    upload(hub, sharded, "owner/lost")
    del hub.repos["models/owner/lost"][lost]
    with pytest.raises(UserError, match=f"{lost}: the shard is missing"):
        provide_weights([remote(llm, "owner/lost")])


def test_a_copy_can_be_brought_where_there_is_no_network(
    hub: Hub, encoder: Encoder, llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    found = provide_weights([encoder, llm], folder=tmp_path / "made")
    assert [one.place.name for one in found] == ["encoder", "llm"]
    load_encoder_model(encoder)
    with pytest.raises(UserError, match=r"config\.json: no such file"):
        provide_weights([encoder], folder=tmp_path / "data")


def test_an_unpinned_revision_is_named_by_its_lock(hub: Hub, encoder: Encoder) -> None:
    loose: Encoder = remote(encoder, "owner/encoder", None)
    assert loose.weights.digest() == "owner/encoder@main"
    provide_weights([loose])
    assert loose.weights.digest() == f"owner/encoder@{COMMIT}"


def test_a_checkpoint_of_the_original_code_is_fetched_to_its_file(hub: Hub, tmp_path: Path) -> None:
    from mllm_eval.adapters.dinov2 import Family

    made = make_encoder(tmp_path / "made")
    state = load_encoder_model(made).model.state_dict()
    original: dict[str, torch.Tensor] = {}
    plain = {
        "embeddings.cls_token": "cls_token", "embeddings.mask_token": "mask_token",
        "embeddings.position_embeddings": "pos_embed", "layernorm.weight": "norm.weight",
        "layernorm.bias": "norm.bias",
        "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
        "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    }  # fmt: skip
    for name, tensor in state.items():
        if name in plain:
            original[plain[name]] = tensor
    for block in range(made.depth):
        inner = f"encoder.layer.{block}."
        for part in ("weight", "bias"):
            qkv = [state[f"{inner}attention.{one}_proj.{part}"] for one in "qkv"]
            original[f"blocks.{block}.attn.qkv.{part}"] = torch.cat(qkv)
            original[f"blocks.{block}.attn.proj.{part}"] = state[f"{inner}attention.o_proj.{part}"]
            for one in "12":
                original[f"blocks.{block}.norm{one}.{part}"] = state[f"{inner}norm{one}.{part}"]
                original[f"blocks.{block}.mlp.fc{one}.{part}"] = state[f"{inner}mlp.fc{one}.{part}"]
        for one in "12":
            original[f"blocks.{block}.ls{one}.gamma"] = state[f"{inner}layer_scale{one}.lambda1"]
    assert Family.layout is not None
    file = tmp_path / "x.pth"
    torch.save(original, file)
    hub.plain["w/x.pth"] = file.read_bytes()
    values = made.model_dump()
    values["weights"] = {"path": "data:weights/x.pth", "url": f"{hub.url}/w/x.pth"}
    values["architecture"] = {"heads": 2, "hidden": 64, "native": 28, "activation": "gelu", "norm_eps": 1e-6}
    encoder = Encoder(**values)
    (found,) = provide_weights([encoder])
    assert found.place == tmp_path / "data" / "weights" / "x.pth"
    pixels = torch.randn(1, 3, 28, 28)
    torch.testing.assert_close(load_encoder_model(encoder)(pixels), load_encoder_model(made)(pixels))
    found.place.write_bytes(found.place.read_bytes()[:-1])
    with pytest.raises(UserError, match="cut short"):
        weights_place(encoder.weights)


@pytest.mark.slow
def test_the_command_prints_what_it_locked(hub: Hub, encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "configs" / "encoders" / "tiny-dinov2.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(encoder.model_dump(mode="json", exclude_none=True)))
    shown = CliRunner().invoke(app, ["weights", "tiny-dinov2"])
    assert shown.exit_code == 0, shown.output
    assert f"tiny-dinov2: ok; 2 files, 0.00 GiB, revision {COMMIT}" in shown.output
    assert "locked in" in shown.output
    assert "mini-llama: ok" in CliRunner().invoke(app, ["weights", "--llm", "mini-llama", "--offline"]).output
    nothing = CliRunner().invoke(app, ["weights"])
    assert nothing.exit_code == 2
    assert "say what to fetch" in nothing.stderr
