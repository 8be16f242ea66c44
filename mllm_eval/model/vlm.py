"""The model: a frozen encoder, a projector, and a LLaMA that reads embeddings.

transformers' own LLaVA class cannot compute the same function. For every vision tower but CLIP, its last layer's
features are taken before the final norm. It also cannot resize the patch grid to a token budget, and cannot be loaded
without the encoder when features are already computed.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, LlamaConfig, LlamaForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.configuration_utils import SubConfigSpec
from transformers.modeling_outputs import CausalLMOutputWithPast

from mllm_eval.adapters import build_encoder
from mllm_eval.adapters.projector import Projector
from mllm_eval.catalog import Encoder, TokenGrid
from mllm_eval.model.targets import states_before_targets

IGNORED = -100


class VLMConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """The config of a `VLM`: everything that decides its function, except its weights.

    encoder: the catalog's entry. vision_config: the encoder's transformers config; None for a model without its
    encoder, which takes features only. tokens: image tokens per image. projector: its type.
    standardize, l2_normalize: how the projector's input is normalised. row_token, hide: as in `TokenGrid`.
    template: the conversation template used in training. image_token_id: id of the image token.
    """

    model_type = "mllm_eval_vlm"
    sub_configs_defaults = {"text_config": SubConfigSpec(config_class=LlamaConfig)}  # noqa: RUF012

    encoder: dict[str, Any] | None = None
    vision_config: dict[str, Any] | None = None
    text_config: dict[str, Any] | PreTrainedConfig | None = None
    tokens: int = 576
    projector: str = "mlp2x_gelu"
    standardize: bool = False
    row_token: bool = False
    hide: bool = False
    l2_normalize: bool = False
    template: str = "llama_3"
    image_token_id: int = 0


class VLM(PreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]
    """A vision-language model of encoder, projector and LLaMA.

    An image takes `image_tokens` positions of a prompt; fewer if `grid` hides its padding. `tokenizer` is set by
    `load_checkpoint`. A given `llm` is used unchanged; otherwise a new one is initialised at random.
    """

    config_class = VLMConfig
    base_model_prefix = "vlm"
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    skips = True
    """Whether training skips unused positions, which relies on internals of transformers' LLaMA
    (`mllm_eval.model.internals`)."""
    accepts_loss_kwargs = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012

    def __init__(self, config: VLMConfig, llm: LlamaForCausalLM | None = None) -> None:
        super().__init__(config)
        facts = Encoder.model_validate(config.encoder)
        if config.vision_config is None:
            self.encoder = None
        else:
            self.encoder = build_encoder(facts, config.vision_config)
        text: Any = config.text_config
        self.projector = Projector(
            facts.width,
            text.hidden_size,
            config.tokens,
            config.projector,
            config.standardize,
            config.row_token,
            config.l2_normalize,
        )
        self.tokenizer: Any = None
        self.grid = TokenGrid(self.projector.edge, config.row_token, config.hide)
        self.image_tokens: int = self.grid.positions
        if llm is None:
            self.llm: Any = LlamaForCausalLM(text)
            self.post_init()  # type: ignore[no-untyped-call]
        else:
            # The LLM is set after `post_init`, which would initialise its weights again.
            self.post_init()  # type: ignore[no-untyped-call]
            self.llm = llm
            tied = getattr(llm, "all_tied_weights_keys", {})
            self.all_tied_weights_keys.update({f"llm.{key}": f"llm.{to}" for key, to in tied.items()})

    def _init_weights(self, module: nn.Module) -> None:
        # torch's default initialisation, as for LLaVA's and Cambrian-1's projectors.
        if isinstance(module, nn.Linear):
            module.reset_parameters()

    def get_input_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.llm.get_input_embeddings()
        return embeddings

    def get_output_embeddings(self) -> nn.Module:
        head: nn.Module = self.llm.get_output_embeddings()
        return head

    def embed(self, features: Tensor) -> Tensor:
        """Project patch features [B, h, w, D] of any float dtype to image tokens [B, image_tokens, H].

        The result has the projector's dtype.
        """
        first: Tensor = next(self.projector.parameters())
        projected: Tensor = self.projector(features.to(first.device, first.dtype))
        return projected

    def encode(self, pixel_values: Tensor) -> Tensor:
        """Encode pixels [B, 3, H, W] to patch features [B, h, w, D]. Raises ValueError for a model without encoder."""
        if self.encoder is None:
            raise ValueError("this model was made without an encoder; give it features")
        if not len(pixel_values):
            # With sharded weights all ranks must run the encoder, even for a batch of text alone.
            return self.encode(pixel_values.new_zeros(1, *pixel_values.shape[1:]))[:0]
        weight = next(self.encoder.parameters())
        features: Tensor = self.encoder(pixel_values.to(weight.device, weight.dtype))[0].patches
        return features

    def fuse(self, input_ids: Tensor, features: Tensor | None, kept: Tensor | None = None) -> Tensor:
        """Embed token ids [B, N] as [B, N, H], with projected features in place of image tokens.

        features: [images, h, w, D]. kept: [images, 2], the shown rows and columns of each image's grid; None for the
        whole grid. The image token's id may exceed the vocabulary, as its embedding is never looked up.
        Raises ValueError where the numbers of image positions and of shown image tokens differ.
        """
        image = input_ids == self.config.image_token_id
        words: Tensor = self.get_input_embeddings()(input_ids.masked_fill(image, 0))
        given = 0 if features is None else len(features) * self.image_tokens
        places: list[int] | None = None
        if features is not None and kept is not None:
            each = (self.grid.shown((rows, columns)) for rows, columns in kept.tolist())
            places = [at * self.image_tokens + place for at, own in enumerate(each) for place in own]
            given = len(places)
        expected = int(image.sum())
        if expected != given:
            raise ValueError(f"{expected} image positions in the prompts, {given} visual tokens given")
        if features is None:
            return words
        tokens = self.embed(features).to(words.dtype).flatten(0, 1)
        if places is not None:
            tokens = tokens[torch.tensor(places, device=tokens.device)]
        return words.masked_scatter(image[..., None], tokens)

    def forward(  # noqa: PLR0913  what transformers gives a model
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        features: Tensor | None = None,
        kept: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Return logits [B, N, vocabulary]; with `labels` [B, N] return only the loss.

        The input is `inputs_embeds` [B, N, H]; or `input_ids` [B, N] with an image token at every position of an image,
        and either `pixel_values` [images, 3, H, W] or `features` [images, h, w, D]; `kept` as in `fuse`.

        The loss is the sum of the targets' cross-entropies, divided by `num_items_in_batch` or, without it, by the
        number of targets. Targets are labels other than -100, each predicted from the position before it. Logits, and
        most of the last layer, are computed for these positions only.
        """
        if inputs_embeds is None:
            assert input_ids is not None
            if pixel_values is not None:
                features = self.encode(pixel_values)
            inputs_embeds = self.fuse(input_ids, features, kept)
        rest = {"attention_mask": attention_mask, "position_ids": position_ids, "past_key_values": past_key_values}
        if labels is not None:
            # Each target is predicted from the position before it.
            used = F.pad(labels[:, 1:] != IGNORED, (0, 1))
            if self.skips and all(value is None for value in rest.values()):
                states = states_before_targets(self.llm.model, inputs_embeds, used)
            else:
                states = self.llm.model(inputs_embeds=inputs_embeds, **rest, **kwargs).last_hidden_state[used]
            targets = labels[:, 1:][used[:, :-1]]
            loss = F.cross_entropy(self.llm.lm_head(states).float(), targets, reduction="sum")
            # A batch has no targets if all its rows have unreadable images.
            count = torch.as_tensor(len(targets) if num_items_in_batch is None else num_items_in_batch).clamp(min=1)
            return CausalLMOutputWithPast(loss=loss / count.to(loss.device))
        output = self.llm.model(inputs_embeds=inputs_embeds, **rest, **kwargs)
        states = output.last_hidden_state
        wanted = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.llm.lm_head(states[:, wanted])
        return CausalLMOutputWithPast(
            logits=logits,
            past_key_values=output.past_key_values,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        prepare: Any = GenerationMixin.prepare_inputs_for_generation
        inputs: dict[str, Any] = prepare(self, *args, **kwargs)
        if not kwargs.get("is_first_iteration"):
            # After the first step the cache holds the images.
            inputs.pop("pixel_values", None)
            inputs.pop("features", None)
            inputs.pop("kept", None)
        return inputs

    def train(self, mode: bool = True) -> VLM:
        """Set the mode as `nn.Module.train` does, but keep the frozen encoder in evaluation mode."""
        super().train(mode)
        if self.encoder is not None:
            self.encoder.eval()
        return self
