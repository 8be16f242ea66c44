"""Finds encoder families: the shipped ones, and users' own files, which are imported only on request.

A user's own family is one file, `adapters/NAME.py` or `configs/encoders/NAME.py`, in the working folder or in a folder
of $MLLM_EVAL_PATH. Code is never run from a folder of weights or from the hub.
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
# Subfolders of a root that may hold families. The first file with a name wins, as for yaml files.
PLACES = ("adapters", "configs/encoders")
PAGE = "docs/add-an-encoder.md, 'A new family', says how to add one"
_CLASS = re.compile(r"^(class\s+Family\b|Family\s*[:=]|from\s.*\bimport\b.*\bFamily\b)", re.MULTILINE)


def own_files() -> dict[str, Path]:
    """Map the name of every user's own family to its file. A shipped family's name never refers to a user's file."""
    files: dict[str, Path] = {}
    for root in roots():
        for place in PLACES:
            folder = (root / place).resolve()
            if not folder.is_relative_to(PACKAGE) and folder != SHIPPED / place:
                paths = {path.stem: path for path in sorted(folder.glob("*.py")) if path.stem.isidentifier()}
                files = {**paths, **files}
    return {name: path for name, path in files.items() if name not in NAMES and not name.startswith("_")}


def unknown(name: str) -> str:
    """Error text for an unknown family: the known ones, the nearest name, and the page to read."""
    known = [*NAMES, *(own for own, path in own_files().items() if _CLASS.search(_text(path)))]
    return f"family {name!r}: no family reads it (known: {', '.join(sorted(known))}).{near(name, known)} {PAGE}"


def code_of(name: str) -> str | None:
    """SHA-256 of a user's own family file, as 64 hex digits; None for a shipped family.

    Raises ValueError for an unknown family, with the text of `unknown`.
    """
    if name in NAMES:
        return None
    path = own_files().get(name)
    if path is None:
        raise ValueError(unknown(name))
    return sha256_file(path)


def module_of_family(name: str, code: str | None, weights: Weights | None = None) -> ModuleType:
    """Import the file of a user's own family. code: the SHA-256 that the file must have, or None for any.

    A changed file is imported again. Raises UserError for an unknown family, and for a file that has another SHA-256,
    is inside the folder of the weights, or can't be imported (with its line).
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
    # Dataclasses and pydantic models look up their module in sys.modules while the class is created.
    sys.modules[name] = module
    try:
        # The hashed bytes are compiled here, because a cached .pyc could come from other code.
        exec(compile(data, str(path), "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, UserError | MemoryError | KeyboardInterrupt):
            raise
        said = f"family {path.stem}: can't be imported"
        raise fault(error, said, path.parent, otherwise=f"{path}: ") from None
    return module


def _place(weights: Weights) -> Path | None:
    """The local folder or file of the weights, or None if they are not on this machine."""
    source = weights.source()
    try:
        place = weights.folder()
        if place is None and source is not None and read_lock(source) is not None:
            place = locked_folder(source)
    except UserError:
        return None
    if place is None or not place.exists():
        return None
    # A single file is returned itself, because its folder may belong to anything.
    return place.resolve()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
