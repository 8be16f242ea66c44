"""`import mllm_eval` lets transformers' Auto classes load this project's checkpoints, and costs nothing.

The classes of a checkpoint need torch and are registered when an Auto class first loads something, whichever of the
two packages was imported first. transformers has no entry point for that.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Whatever loads a checkpoint asks one of these first, AutoModel and `pipeline` as well.
ASKED_FIRST = {
    "transformers.models.auto.configuration_auto": "AutoConfig",
    "transformers.models.auto.image_processing_auto": "AutoImageProcessor",
    "transformers.models.auto.processing_auto": "AutoProcessor",
}


class _Watch(MetaPathFinder):
    """Sees the modules of `ASKED_FIRST` come in, and finds nothing itself."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The module as the other finders find it, with a look at it once it has run."""
        if name not in ASKED_FIRST:
            return None
        others = (one.find_spec(name, path, target) for one in sys.meta_path if one is not self)
        spec = next((one for one in others if one is not None), None)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_ask(module: ModuleType) -> None:
                run(module)
                _ask(module)

            # The loader is that module's alone.
            spec.loader.exec_module = run_and_ask  # type: ignore[method-assign]
        return spec


def _ask(module: ModuleType) -> None:
    """Have the module's Auto class register this project's classes before it first loads something."""
    auto: Any = getattr(module, ASKED_FIRST[module.__name__], None)
    stock = vars(auto).get("from_pretrained") if auto is not None else None
    if not isinstance(stock, classmethod):
        return

    @wraps(stock.__func__)
    def from_pretrained(cls: Any, *args: Any, **options: Any) -> Any:
        if vars(auto).get("from_pretrained") is asking:
            auto.from_pretrained = stock
        # Without torch, as a light installation is, nothing of this project can be loaded, and all else as before.
        with suppress(ImportError):
            import mllm_eval.model  # noqa: F401
        return stock.__func__(cls, *args, **options)

    asking: Any = classmethod(from_pretrained)
    auto.from_pretrained = asking


def register_when_asked() -> None:
    """See to it that the Auto classes know this project's, now or when they are imported; nothing is imported here."""
    if any(isinstance(one, _Watch) for one in sys.meta_path):
        return
    sys.meta_path.insert(0, _Watch())
    for name in ASKED_FIRST:
        if (module := sys.modules.get(name)) is not None:
            _ask(module)
