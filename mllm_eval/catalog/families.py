"""Families of encoders: those that are shipped, and files of somebody's own. Nothing is imported here but on request.

A family of one's own is one file, `adapters/NAME.py` or `configs/encoders/NAME.py`, in the working folder or in one
that $MLLM_EVAL_PATH names. Code comes from nowhere else: never from a folder of weights, never from the hub.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from mllm_eval.catalog.folders import roots
from mllm_eval.errors import UserError, fault, near
from mllm_eval.hub import locked_folder, read_lock
from mllm_eval.storage import PACKAGE, SHIPPED, sha256_bytes, sha256_file

if TYPE_CHECKING:
    from mllm_eval.catalog.weights import Weights

NAMES = (
    "aimv2",
    "clip",
    "dinov2",
    "dinov2_with_registers",
    "dinov3",
    "ijepa",
    "internvit",
    "metaclip2",
    "mlcd",
    "openvision",
    "radio",
    "siglip",
    "siglip2_naflex",
    "timm",
    "timm_convnext",
    "tipsv2",
    "vit",
    "vjepa2",
)
# Under a root; the first that has a name wins, as for yaml files.
PLACES = ("adapters", "configs/encoders")
PAGE = "docs/add-an-encoder.md, 'A new family', says how to add one"
_CLASS = re.compile(r"^(class\s+Family\b|Family\s*[:=]|from\s.*\bimport\b.*\bFamily\b)", re.MULTILINE)


def own_files() -> dict[str, Path]:
    """Name -> file of every family of one's own; names of shipped families always mean those."""
    files: dict[str, Path] = {}
    for root in roots():
        for place in PLACES:
            folder = (root / place).resolve()
            if not folder.is_relative_to(PACKAGE) and folder != SHIPPED / place:
                paths = {path.stem: path for path in sorted(folder.glob("*.py")) if path.stem.isidentifier()}
                files = {**paths, **files}
    return {name: path for name, path in files.items() if name not in NAMES and not name.startswith("_")}


def unknown(name: str) -> str:
    """What to say of a family that is none: the known ones, the nearest name, and the page to read."""
    known = [*NAMES, *(own for own, path in own_files().items() if _CLASS.search(_text(path)))]
    return f"family {name!r}: no family reads it (known: {', '.join(sorted(known))}).{near(name, known)} {PAGE}"


def code_of(name: str) -> str | None:
    """SHA-256 of the file of a family of one's own; None for a shipped family.

    Raises ValueError, with what `unknown` says, for a family that is none.
    """
    if name in NAMES:
        return None
    path = own_files().get(name)
    if path is None:
        raise ValueError(unknown(name))
    return sha256_file(path)


def module_of_family(name: str, code: str | None, weights: Weights | None = None) -> ModuleType:
    """The imported file of a family of one's own, which must be the one that `code` is the SHA-256 of.

    A file that was changed meanwhile is imported anew. Raises UserError for a family that is none, a file that is not
    the one that was meant, that lies among the weights, or that can't be imported (with its line).
    """
    path = own_files().get(name)
    if path is None:
        raise UserError(unknown(name))
    if weights is not None and (place := _place(weights)) is not None and path.resolve().is_relative_to(place):
        raise UserError(
            f"{path}: lies among the weights {place}, from where no code is run; read it, and if you trust it, copy it "
            "to a folder of your own that MLLM_EVAL_PATH names"
        )
    data = path.read_bytes()
    digest = sha256_bytes(data)
    if code is not None and digest != code:
        raise UserError(
            f"{path}: family {name} is {digest[:12]} now, and {code[:12]} where this encoder was used; its features "
            "would be others. Bring the file back, or evaluate the encoder anew by its name"
        )
    module = f"mllm_eval_family_{digest[:12]}_{sha256_bytes(str(path).encode())[:8]}"
    if module not in sys.modules:
        sys.modules[module] = _executed(module, path, data)
    return sys.modules[module]


def _executed(name: str, path: Path, data: bytes) -> ModuleType:
    module = ModuleType(name)
    module.__file__ = str(path)
    # Classes look themselves up there while they are made.
    sys.modules[name] = module
    try:
        # What was hashed is what is run, whatever lies compiled beside it.
        exec(compile(data, str(path), "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, UserError | MemoryError | KeyboardInterrupt):
            raise
        said = f"family {path.stem}: can't be imported"
        raise fault(error, said, path.parent, otherwise=f"{path}: ") from None
    return module


def _place(weights: Weights) -> Path | None:
    """The folder of weights that are here, or of the one file that they are."""
    source = weights.source()
    try:
        place = weights.folder()
        if place is None and source is not None and read_lock(source) is not None:
            place = locked_folder(source)
    except UserError:
        return None
    if place is None or not place.exists():
        return None
    # A single file stands in a folder that may be anybody's.
    return place.resolve()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
