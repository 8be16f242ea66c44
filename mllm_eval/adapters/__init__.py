"""Encoders behind one contract. Each family is a file of adapters/; it is imported when an encoder of it is loaded.

Families of somebody's own are found as `mllm_eval.catalog.families` says.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_eval.catalog.families import NAMES, module_of_family
from mllm_eval.errors import UserError
from mllm_eval.hub import locked_folder, read_lock
from mllm_eval.storage import PACKAGE, SHIPPED

if TYPE_CHECKING:
    import torch

    from mllm_eval.adapters.base import EncoderModel
    from mllm_eval.catalog import Encoder, Weights

FAMILIES = NAMES

if SHIPPED != PACKAGE:
    # In a checkout the families lie in adapters/ at its top; an installed package has them beside this file.
    __path__.append(str(SHIPPED / "adapters"))


def family(name: str, code: str | None = None, weights: Weights | None = None) -> type[EncoderModel]:
    """The class of a family, a shipped one or one of somebody's own.

    code: SHA-256 that the file of one's own must have. weights: where no code may lie. Raises UserError for an unknown
    name, with the nearest, and for a file that is not the one meant, can't be imported or does not keep the contract.
    """
    if name in FAMILIES:
        family_class: type[EncoderModel] = importlib.import_module(f"mllm_eval.adapters.{name}").Family
        return family_class
    module = module_of_family(name, code, weights)
    return _held(getattr(module, "Family", None), Path(str(module.__file__)))


def family_of(encoder: Encoder) -> type[EncoderModel]:
    """The class of an encoder's family, of the very code that the encoder names. Raises UserError as `family` does."""
    return family(encoder.family, encoder.code, encoder.weights)


def _held(named: Any, path: Path) -> type[EncoderModel]:
    from mllm_eval.adapters.base import NEEDED, EncoderModel

    if not (isinstance(named, type) and issubclass(named, EncoderModel)):
        raise UserError(f"{path}: has no class `Family` that derives from mllm_eval.adapters.base.EncoderModel")
    lacking = [name for name in NEEDED if getattr(named, name) is getattr(EncoderModel, name)]
    lacking += [name for name in ("build", "load") if _function(named, name) is _function(EncoderModel, name)]
    if lacking:
        raise UserError(f"{path}: class Family has no {', '.join(lacking)}; see mllm_eval.adapters.base.EncoderModel")
    return named


def _function(owner: type, name: str) -> Any:
    return getattr(getattr(owner, name), "__func__", None)


def weights_place(weights: Weights) -> Path:
    """Where weights lie on this machine, a hub-format folder or one file; nothing is fetched.

    Raises UserError if they are missing, or not those of their lock.
    """
    place, source = weights.folder(), weights.source()
    if source is not None and read_lock(source) is not None:
        folder = locked_folder(source)
        return folder if place is None else folder / place.name
    if source is not None and (place is None or not place.exists()):
        raise UserError(f"{source}: the weights are not on this machine; {source.mend}")
    assert place is not None
    if not place.exists():
        raise UserError(f"{place}: no such folder or file of weights; correct `weights: path:` or make them")
    return place


def weights_folder(weights: Weights) -> Path:
    """The local hub-format folder of some weights; nothing is fetched. Raises UserError if it is missing."""
    place = weights_place(weights)
    if not place.is_dir():
        raise UserError(f"{place}: is a file, where a folder in hub format is needed")
    return place


def load_encoder_model(encoder: Encoder, dtype: torch.dtype | None = None) -> EncoderModel:
    """The frozen encoder in evaluation mode, float32 unless told otherwise; its yaml is checked.

    Raises UserError for an unknown family, missing or unreadable weights, and facts that do not match.
    """
    import torch

    from mllm_eval.adapters.faults import own_code
    from mllm_eval.kernels import use_kernels

    place, kind = weights_place(encoder.weights), family_of(encoder)
    with own_code(kind, encoder, "load"):
        model = kind.load(encoder, place, dtype or torch.float32)
    return use_kernels(model)


def build_encoder(encoder: Encoder, config: dict[str, Any]) -> EncoderModel:
    """The architecture that `config_values` told, weights yet to be loaded. Raises UserError as `family` does."""
    from mllm_eval.adapters.faults import own_code

    kind = family_of(encoder)
    with own_code(kind, encoder, "build"):
        return kind.build(encoder, config)


def hold_encoder(encoder: Encoder, place: Path) -> None:
    """Hold an encoder's weights to its yaml as far as it is seen without reading them all. Raises UserError."""
    from mllm_eval.adapters.faults import own_code

    kind = family_of(encoder)
    with own_code(kind, encoder, "hold"):
        kind.hold(encoder, place)
