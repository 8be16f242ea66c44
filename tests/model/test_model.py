"""Features for images, loss on targets only, and a checkpoint that the Auto classes load."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_models import make_conversations, make_encoder, make_image, make_llm, make_recipe, make_tokenizer

from mllm_eval.adapters import load_encoder_model
from mllm_eval.errors import UserError
from mllm_eval.model import (
    VLM,
    assemble,
    load_checkpoint,
    load_llm_model,
    load_tokenizer,
    make_processor,
    save_checkpoint,
)
from mllm_eval.model.llmexport import export_llm
from mllm_eval.prompts import TEMPLATES, conversation, render


def make_model(folder: Path, family: str = "dinov2") -> tuple[VLM, Any]:
    """A model in its three parts, and its encoder."""
    encoder = make_encoder(folder / "encoder", family)
    llm = make_llm(folder / "llm")
    recipe = make_recipe(folder / "none.jsonl", folder)
    torch.manual_seed(1)
    model = assemble(encoder, recipe, load_llm_model(llm), load_tokenizer(llm, recipe.template))
    model.projector.set_statistics(torch.full((32,), 0.3), torch.full((32,), 2.0))
    return model.eval(), load_encoder_model(encoder)


def ids(model: VLM, text: str) -> torch.Tensor:
    one = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    image = model.config.image_token_id
    spread = [token for each in one for token in ([image] * 9 if each == image else [each])]
    return torch.tensor([spread])


def test_assembling_keeps_the_llms_weights(tmp_path: Path) -> None:
    model, _ = make_model(tmp_path)
    llm = make_llm(tmp_path / "llm")
    for name, tensor in load_llm_model(llm).state_dict().items():
        assert torch.equal(model.llm.state_dict()[name], tensor), name


def test_an_image_stands_where_its_tokens_are(tmp_path: Path) -> None:
    model, _ = make_model(tmp_path)
    features = torch.randn(2, 4, 4, 32)
    embeddings = model.fuse(torch.cat([ids(model, "a<image>bc<image>")]), features)
    words = model.get_input_embeddings()
    a, b, c = (words(torch.tensor(model.tokenizer(x, add_special_tokens=False)["input_ids"])) for x in "abc")
    first, second = model.embed(features)
    torch.testing.assert_close(embeddings[0], torch.cat([a, first, b, c, second]))
    with pytest.raises(ValueError, match="18 image positions in the prompts, 9 visual tokens"):
        model.fuse(ids(model, "a<image>bc<image>"), features[:1])
    assert model.fuse(ids(model, "abc"), features[:0]).shape == (1, 3, 64)


def test_loss_is_cross_entropy_of_the_targets_and_of_nothing_else(tmp_path: Path) -> None:
    model, _ = make_model(tmp_path)
    tokens = ids(model, "a question<image>and its answer")
    features = torch.randn(1, 4, 4, 32)
    labels = torch.full_like(tokens, -100)
    labels[0, -5:] = tokens[0, -5:]
    labels[0, 3] = tokens[0, 3]
    logits = model(input_ids=tokens, features=features).logits
    expected = F.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=-100)
    torch.testing.assert_close(model(input_ids=tokens, features=features, labels=labels).loss, expected)
    scaled = model(input_ids=tokens, features=features, labels=labels, num_items_in_batch=12).loss
    torch.testing.assert_close(scaled, expected * 6 / 12)


def test_right_padding_without_a_mask_changes_nothing(tmp_path: Path) -> None:
    model, _ = make_model(tmp_path)
    tokens = ids(model, "short<image>one")
    features = torch.randn(1, 4, 4, 32)
    padded = F.pad(tokens, (0, 7), value=model.tokenizer.pad_token_id)
    alone = model(input_ids=tokens, features=features).logits
    torch.testing.assert_close(model(input_ids=padded, features=features).logits[:, : tokens.shape[1]], alone)


def test_a_batch_without_images_still_reaches_the_projector(tmp_path: Path) -> None:
    model, _ = make_model(tmp_path)
    tokens = ids(model, "only words")
    model(input_ids=tokens, features=torch.zeros(0, 4, 4, 32), labels=tokens).loss.backward()
    assert all(parameter.grad is not None for parameter in model.projector.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("family", ["dinov2", "clip", "siglip", "vit", "ijepa"])
def test_the_auto_classes_load_the_same_function(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model, encoder = make_model(tmp_path, family)
    save_checkpoint(model, tmp_path / "checkpoint", encoder)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "checkpoint")
    assert type(loaded) is VLM
    processor = AutoProcessor.from_pretrained(tmp_path / "checkpoint")
    images = [make_image(1, (40, 30)), make_image(2)]
    prompts = [render("llama_3_meta", text, 1) for text in ("What?", "How many of them?")]
    inputs = processor(images=images, text=prompts)
    pixels = torch.stack([torch.from_numpy(encoder.preprocess(image)) for image in images])
    assert torch.equal(inputs["pixel_values"], pixels)
    with torch.no_grad():
        got = loaded(**inputs).logits[:, -1]
        for row, prompt in enumerate(prompts):
            features = encoder(pixels[row : row + 1])[0].patches
            alone = model(input_ids=ids(model, prompt), features=features).logits[0, -1]
            torch.testing.assert_close(got[row], alone, atol=1e-5, rtol=1e-4)
        generated = loaded.generate(**inputs, max_new_tokens=5, do_sample=False)
        embeddings = model.fuse(ids(model, prompts[0]), encoder(pixels[:1])[0].patches)
        plain = model.llm.generate(
            inputs_embeds=embeddings,
            attention_mask=torch.ones(embeddings.shape[:2]),
            max_new_tokens=5,
            do_sample=False,
        )
    assert generated[0, inputs["input_ids"].shape[1] :].tolist() == plain[0].tolist()


def test_a_checkpoint_holds_every_weight_bit_for_bit(tmp_path: Path) -> None:
    model, encoder = make_model(tmp_path)
    save_checkpoint(model, tmp_path / "one", encoder)
    loaded = load_checkpoint(tmp_path / "one")
    expected = {**model.state_dict(), **{f"encoder.{k}": v for k, v in encoder.state_dict().items()}}
    assert set(loaded.state_dict()) == set(expected)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert loaded.image_tokens == 9 and loaded.config.template == "llama_3_meta"
    assert loaded.tokenizer("<image>", add_special_tokens=False)["input_ids"] == [loaded.config.image_token_id]
    save_checkpoint(loaded, tmp_path / "two")
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


@pytest.mark.slow
def test_a_half_precision_checkpoint_says_so_and_loads_as_it_is(tmp_path: Path) -> None:
    """config.json is what every loader believes: float32 there would double memory and time of all that is asked."""
    model, encoder = make_model(tmp_path)
    state = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    # The model that was trained is in float32 still, as its optimiser wants it.
    save_checkpoint(model, tmp_path / "half", encoder.to(torch.bfloat16), state)
    said = json.loads((tmp_path / "half" / "config.json").read_text())
    assert said["dtype"] == "bfloat16" and said["text_config"]["dtype"] == "bfloat16"
    loaded = load_checkpoint(tmp_path / "half")
    assert {tensor.dtype for tensor in loaded.parameters()} == {torch.bfloat16}
    turning = loaded.llm.model.rotary_emb.inv_freq
    assert turning.dtype == torch.float32 and torch.equal(turning, model.llm.model.rotary_emb.inv_freq)
    export_llm(tmp_path / "half", tmp_path / "alone")
    assert json.loads((tmp_path / "alone" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.slow
def test_a_tied_head_stays_tied(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    model, encoder = make_model(tmp_path)
    config = LlamaConfig(**{**model.llm.config.to_dict(), "tie_word_embeddings": True})
    recipe = make_recipe(tmp_path / "none.jsonl", tmp_path)
    tied = assemble(make_encoder(tmp_path / "e"), recipe, LlamaForCausalLM(config), model.tokenizer)
    save_checkpoint(tied, tmp_path / "checkpoint", encoder)
    loaded = load_checkpoint(tmp_path / "checkpoint")
    assert loaded.llm.lm_head.weight is loaded.llm.model.embed_tokens.weight
    assert torch.equal(loaded.llm.lm_head.weight, tied.llm.lm_head.weight)


@pytest.mark.slow
def test_saving_over_a_checkpoint_and_over_a_crash_leaves_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, encoder = make_model(tmp_path)
    folder = tmp_path / "checkpoint"

    def crash(*_: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(OSError, match="disk full"):
            save_checkpoint(model, folder, encoder)
    assert not folder.exists()
    save_checkpoint(model, folder, encoder)
    save_checkpoint(model, folder, encoder)
    load_checkpoint(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "encoder", "llm"]


def test_a_missing_or_cut_checkpoint_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint here"):
        load_checkpoint(tmp_path / "nothing")
    model, encoder = make_model(tmp_path)
    save_checkpoint(model, tmp_path / "checkpoint", encoder)
    weights = tmp_path / "checkpoint" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    with pytest.raises(UserError, match="is not what was written there; put it back, or delete it and train") as caught:
        load_checkpoint(tmp_path / "checkpoint")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 65}, "width: 65"),
        ({"vocab": 9}, "vocab: 9"),
        ({"params": 7}, "params: 7"),
        ({"depth": 9}, "depth: 9"),
    ],
)
def test_the_llms_facts_are_checked(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_llm_model(make_llm(tmp_path).model_copy(update=changes))


def test_a_tokenizer_without_the_templates_marks_is_refused(tmp_path: Path) -> None:
    llm = make_llm(tmp_path)
    for template in ("llama_3", "llama_3_meta"):
        load_tokenizer(llm, template)
    with pytest.raises(UserError, match=r"no token '<\|im_start\|>', which the template 'chatml_direct' needs"):
        load_tokenizer(llm, "chatml_direct")


def test_an_image_token_may_lie_behind_the_vocabulary(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    llm = make_llm(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(path.read_text().replace("<image>", "<unused>"))
    Tokenizer.from_file(str(path))
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (tmp_path / name).is_file():
            (tmp_path / name).write_text((tmp_path / name).read_text().replace("<image>", "<unused>"))
    tokenizer = load_tokenizer(llm, "llama_3")
    assert tokenizer.convert_tokens_to_ids("<image>") == len(make_tokenizer()) == llm.vocab
    recipe = make_recipe(tmp_path / "none.jsonl", tmp_path)
    model = assemble(make_encoder(tmp_path / "e"), recipe, load_llm_model(llm), tokenizer)
    tokens = ids(model, "a<image>b")
    assert model(input_ids=tokens, features=torch.randn(1, 4, 4, 32)).logits.shape[-1] == llm.vocab


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_the_chat_template_writes_what_training_reads(name: str, tmp_path: Path) -> None:
    model, _ = make_model(tmp_path)
    model.config.template = name
    processor = make_processor(model.config, model.tokenizer)
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}
    asked = processor.apply_chat_template([user], add_generation_prompt=True)
    assert asked == render(name, "What is it?", 1)
    turns = [("<image>\nWhat?", "A\ncat"), ("Sure?", "Yes")]
    messages = [{"role": "system", "content": "Be brief."}]
    for question, reply in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    expected = "".join(text for text, _ in conversation(name, turns, "Be brief."))
    assert processor.apply_chat_template(messages) == expected


def test_conversations_of_the_fixture_exist(tmp_path: Path) -> None:
    path, images = make_conversations(tmp_path)
    assert len(path.read_text().splitlines()) == 24 and len(list(images.iterdir())) == 10
