"""Families that wrap one transformers class. They read hub-format folders and checkpoints of the original code.

A family names the class, the model types that it reads, and the paths of the submodules it needs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from mllm_eval.adapters import family
from mllm_eval.adapters.base import EncoderModel
from mllm_eval.adapters.loading import hold_layers, load_whole
from mllm_eval.adapters.original import Layout, hold_format, read_original
from mllm_eval.catalog.families import NAMES, PAGE
from mllm_eval.catalog.llamaconfig import read_config
from mllm_eval.errors import UserError, exception_words, near

if TYPE_CHECKING:
    from mllm_eval.catalog import Encoder
    from mllm_eval.catalog.architecture import Form

# Config fields that say where a checkpoint came from and do not describe the model.
ORIGIN = {"model_type", "architectures", "transformers_version", "torch_dtype", "dtype"}
# Features of some vision transformers. A class whose config has no such field does not compute them.
STRANGE = ("use_qk_norm", "qk_norm", "use_rope", "rope_theta", "window_size")


class Backbone(EncoderModel):
    """Base class of the families that wrap one transformers class.

    model_types: the `model_type` of the configs it reads. class_name: the transformers class. options: keyword
    arguments of the class beside its config. blocks_at, norm_at: paths of submodules. norm_eps: the config's name of
    the norms' epsilon. form: the parts of the class outside the blocks. layout: names of tensors in the original code,
    None if unknown. left_out: regular expression of tensors in a folder that are not used, such as heads and decoders.
    """

    model_types: ClassVar[tuple[str, ...]]
    class_name: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}
    blocks_at: ClassVar[str]
    norm_at: ClassVar[str]
    norm_eps: ClassVar[str] = "layer_norm_eps"
    form: ClassVar[Form]
    layout: ClassVar[Layout | None] = None
    left_out: ClassVar[str]

    @classmethod
    def transformers_class(cls) -> Any:
        """The transformers model class that holds the weights."""
        import transformers

        return getattr(transformers, cls.class_name)

    # ---- configs ----
    @classmethod
    def shape_values(cls, facts: Encoder) -> dict[str, Any]:
        """Config values that correspond to the yaml's `architecture`, beside those that `config_of` sets."""
        shape = facts.architecture
        assert shape is not None
        return {"intermediate_size": shape.hidden}

    @classmethod
    def hidden(cls, config: Any) -> int:
        """Hidden width of the feed-forward network."""
        width: int = config.intermediate_size
        return width

    @classmethod
    def ffn(cls, config: Any) -> str:
        """Kind of feed-forward network, `mlp` or `swiglu`."""
        return "mlp"

    @classmethod
    def native(cls, config: Any) -> int:
        """Edge, in pixels, of the images that the position embeddings were made for."""
        size: int = config.image_size
        return size

    @classmethod
    def config_of(cls, facts: Encoder) -> Any:
        """Build the transformers config from the yaml alone.

        Raises UserError if the yaml has no `architecture`.
        """
        shape = facts.architecture
        if shape is None:
            raise UserError(
                f"encoder {facts.name}: its weights are one file, which has no config; "
                "say `architecture:` (heads, ffn, hidden, native) in the yaml"
            )
        values = {
            "hidden_size": facts.width,
            "num_hidden_layers": facts.depth,
            "num_attention_heads": shape.heads,
            "image_size": shape.native,
            "patch_size": facts.patch,
            "hidden_act": shape.activation,
            cls.norm_eps: shape.norm_eps,
            **cls.shape_values(facts),
        }
        return cls.config_from({name: value for name, value in values.items() if value is not None})

    @classmethod
    def config_from(cls, values: dict[str, Any]) -> Any:
        """Build the transformers config of this family from plain values."""
        config_class = cls.transformers_class().config_class
        return config_class(**{key: value for key, value in values.items() if key not in ORIGIN})

    @classmethod
    def read_config(cls, folder: Path) -> Any:
        """Read the vision config of a hub-format folder. Raises UserError if this family does not read it."""
        path = folder / "config.json"
        hold_format(folder)
        raw = read_config(folder)
        model_type = raw.get("model_type")
        if not isinstance(model_type, str | None):
            raise UserError(f"{path}: `model_type` is {model_type!r}, not a name; fetch it again")
        if model_type not in cls.model_types:
            if model_type is None and "architecture" in raw:
                name = raw["architecture"]
                raise UserError(f"{path}: is of timm's {name!r}; set `family: timm` in the encoder's yaml")
            raise UserError(f"{path}: the weights are of type {model_type!r}, {cls._readers(model_type)}")
        values = raw.get("vision_config") or raw
        if not isinstance(values, dict):
            raise UserError(f"{path}: `vision_config` is a {type(values).__name__}, not a config; fetch it again")
        known = cls.transformers_class().config_class
        registers = cls.registers_in(values, known)
        if registers != cls.form.registers + cls.form.behind:
            raise UserError(
                f"{path}: the weights have {registers} registers, family {cls.family_name()} reads them with "
                f"{cls.form.registers + cls.form.behind}; {PAGE}"
            )
        for name in STRANGE:
            if values.get(name) and not hasattr(known, name):
                raise UserError(
                    f"{path}: `{name}: {values[name]}` is unknown to a {model_type!r} and would be left out"
                )
        try:
            return cls.config_from(values)
        except UserError:
            raise
        except Exception as problem:
            # transformers raises errors of many classes when a field has an unexpected type.
            raise UserError(
                f"{path}: is no config of a {model_type!r} ({exception_words(problem)}); fetch it again"
            ) from None

    @classmethod
    def registers_in(cls, values: dict[str, Any], known: Any) -> int:
        """Count the learned tokens of a config that are neither patches nor class tokens. known: its config class."""
        return values.get("num_register_tokens", getattr(known, "num_register_tokens", 0)) or 0

    @classmethod
    def _readers(cls, model_type: Any) -> str:
        """Tell the user what to do about weights of a type that this family does not read."""
        kinds = {name: family(name) for name in NAMES}
        types = {one: name for name, kind in kinds.items() if issubclass(kind, Backbone) for one in kind.model_types}
        if model_type in types:
            mine = f"family {cls.family_name()} reads {', '.join(cls.model_types)}"
            return f"{mine}; set `family: {types[model_type]}` in the encoder's yaml"
        return f"no family reads it (known: {', '.join(sorted(types))}).{near(str(model_type), types)} {PAGE}"

    @classmethod
    def family_name(cls) -> str:
        """The name of the family as a yaml writes it."""
        module = sys.modules[cls.__module__]
        return Path(str(module.__file__)).stem

    # ---- models ----
    @classmethod
    def build(cls, facts: Encoder, config: dict[str, Any]) -> EncoderModel:
        """Build the model without loading weights. Raises UserError if no model can be made of the config."""
        try:
            return cls(facts, cls.transformers_class()(cls.config_from(config), **cls.options))
        except UserError:
            raise
        except Exception as problem:
            why = exception_words(problem)
            raise UserError(
                f"encoder {facts.name}: no model can be made of its config ({why}); fetch it again"
            ) from None

    @classmethod
    def load(cls, facts: Encoder, place: Path, dtype: torch.dtype) -> EncoderModel:
        """Load a hub-format folder, or one file in the layout of the original code.

        Raises UserError for weights that are truncated, of another architecture, or different from the yaml.
        """
        if place.is_file():
            config, source, state = cls.config_of(facts), None, cls._read_original(facts, place)
        else:
            config, source, state = cls.read_config(place), place, None
            # Compared before loading, so that a wrong yaml does not cost the reading of gigabytes.
            cls.compare_facts(facts, {**cls.found_in(config), "depth": config.num_hidden_layers})
        model = load_whole(
            cls.transformers_class().from_pretrained,
            place,
            source,
            left_out=cls.left_out,
            config=config,
            state_dict=state,
            dtype=dtype,
            **cls.options,
        )
        return cls(facts, model)

    @classmethod
    def hold(cls, facts: Encoder, place: Path) -> None:
        """Check the tensors' names and shapes of a file, or the config of a folder, against the yaml."""
        if place.is_file():
            # The file is mapped into memory, so its weights are not read.
            cls._read_original(facts, place)
            return
        config = cls.read_config(place)
        hold_layers(config.to_dict(), place)
        with torch.device("meta"):
            cls.build(facts, config.to_dict())

    @classmethod
    def _read_original(cls, facts: Encoder, path: Path) -> dict[str, Tensor]:
        if cls.layout is None:
            raise UserError(f"{path}: family {facts.family} reads folders in hub format only; convert the file to one")
        with torch.device("meta"):
            shell = cls.transformers_class()(cls.config_of(facts), **cls.options)
        wanted = {name: tensor.shape for name, tensor in shell.state_dict().items()}
        return cls.original_tensors(facts, path, wanted)

    @classmethod
    def original_tensors(cls, facts: Encoder, path: Path, wanted: dict[str, torch.Size]) -> dict[str, Tensor]:
        """Return a file's tensors under the class's names. Raises UserError as `read_original` does."""
        assert cls.layout is not None
        return read_original(path, cls.layout, wanted, facts.weights.key)

    # ---- the interface of EncoderModel ----
    @property
    def prefix(self) -> int:
        """Number of tokens before the patches: class tokens and registers."""
        return self.form.prefix + self.form.registers

    @property
    def behind(self) -> int:
        """Number of registers after the patches."""
        return self.form.behind

    @property
    def has_cls(self) -> bool:
        """Whether the first token is a class token."""
        return self.form.prefix > 0

    def config_values(self) -> dict[str, Any]:
        """The transformers config as plain data."""
        values: dict[str, Any] = self.model.config.to_dict()
        return values

    @classmethod
    def found_in(cls, config: Any) -> dict[str, Any]:
        """Patch size, width and architecture according to a config."""
        return {
            "patch": config.patch_size,
            "width": config.hidden_size,
            "heads": config.num_attention_heads,
            "ffn": cls.ffn(config),
            "hidden": cls.hidden(config),
            "native": cls.native(config),
            "activation": config.hidden_act,
            "norm_eps": getattr(config, cls.norm_eps),
        }

    def found(self) -> dict[str, Any]:
        """Patch size, width and architecture according to the model's config."""
        return self.found_in(self.model.config)

    def stock_patches(self, pixels: Tensor) -> Tensor:
        """Patches [B, N, D] of the `last_hidden_state` that the class itself returns for pixels [B, 3, H, W]."""
        with torch.no_grad():
            states: Tensor = self.model(pixels, **self.forward_options(pixels)).last_hidden_state
        return states[:, self.prefix : states.shape[1] - self.behind]

    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks, in order."""
        blocks: Sequence[nn.Module] = self.model.get_submodule(self.blocks_at)
        return blocks

    def final_norm(self) -> nn.Module:
        """The norm after the last block, or `nn.Identity()` if the class has none."""
        if not self.form.final_norm:
            return nn.Identity()
        norm: nn.Module = self.model.get_submodule(self.norm_at)
        return norm

    def forward_options(self, pixels: Tensor) -> dict[str, Any]:
        """Ask for interpolated position embeddings if the pixels do not have the native size."""
        native = self.model.config.image_size
        return {} if pixels.shape[-2:] == (native, native) else {"interpolate_pos_encoding": True}
