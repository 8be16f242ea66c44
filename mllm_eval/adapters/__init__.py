"""Vision encoders behind one interface, `EncoderModel`. Each family of architectures is one file of adapters/.

A family is imported only when one of its encoders is loaded. `mllm_eval.catalog.families` finds users' own families.
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
    # In a checkout the families are in the top-level folder adapters/; an installed package has them in this folder.
    __path__.append(str(SHIPPED / "adapters"))


def family(name: str, code: str | None = None, weights: Weights | None = None) -> type[EncoderModel]:
    """Return the class of a family, either a shipped one or a user's own.

    code: the SHA-256 that the file of a user's own family must have. weights: the encoder's weights, whose folder must
    not contain that file. Raises UserError for an unknown name (with the nearest known ones), and for a file that has
    another SHA-256, can't be imported or lacks a part of the interface.
    """
    if name in FAMILIES:
        family_class: type[EncoderModel] = importlib.import_module(f"mllm_eval.adapters.{name}").Family
        return family_class
    module = module_of_family(name, code, weights)
    return _held(getattr(module, "Family", None), Path(str(module.__file__)))


def family_of(encoder: Encoder) -> type[EncoderModel]:
    """Return the class of an encoder's family, with the code that the encoder names. Raises UserError as `family`."""
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
    """Return the local path of some weights, a hub-format folder or one file. Nothing is downloaded.

    Raises UserError if the weights are missing or do not match their lock.
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
    """Return the local hub-format folder of some weights. Raises UserError if it is missing, or is a single file."""
    place = weights_place(weights)
    if not place.is_dir():
        raise UserError(f"{place}: is a file, where a folder in hub format is needed")
    return place


def load_encoder_model(encoder: Encoder, dtype: torch.dtype | None = None) -> EncoderModel:
    """Load a frozen encoder in evaluation mode, by default in float32, and check its yaml against the weights.

    Raises UserError for an unknown family, missing or unreadable weights, and weights that differ from the yaml.
    """
    import torch

    from mllm_eval.adapters.faults import own_code
    from mllm_eval.kernels import use_kernels

    place, kind = weights_place(encoder.weights), family_of(encoder)
    with own_code(kind, encoder, "load"):
        model = kind.load(encoder, place, dtype or torch.float32)
    return use_kernels(model)


def build_encoder(encoder: Encoder, config: dict[str, Any]) -> EncoderModel:
    """Build an encoder from its `config_values`, without loading weights.

    Raises UserError as `family` does, and for a config of which no model can be made.
    """
    from mllm_eval.adapters.faults import own_code

    kind = family_of(encoder)
    with own_code(kind, encoder, "build"):
        return kind.build(encoder, config)


def hold_encoder(encoder: Encoder, place: Path) -> None:
    """Check an encoder's weights against its yaml without reading all of them. Raises UserError where they differ."""
    from mllm_eval.adapters.faults import own_code

    kind = family_of(encoder)
    with own_code(kind, encoder, "hold"):
        kind.hold(encoder, place)
