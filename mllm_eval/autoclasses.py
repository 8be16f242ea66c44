"""Register this project's checkpoints with transformers' Auto classes, without importing torch.

A checkpoint's classes need torch. They are registered only when an Auto class first loads something, whichever of the
two packages was imported first. transformers has no entry point for this purpose.
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

# Every way of loading a checkpoint, including AutoModel and `pipeline`, uses one of these classes first.
ASKED_FIRST = {
    "transformers.models.auto.configuration_auto": "AutoConfig",
    "transformers.models.auto.image_processing_auto": "AutoImageProcessor",
    "transformers.models.auto.processing_auto": "AutoProcessor",
}


class _Watch(MetaPathFinder):
    """Import hook that patches the modules of `ASKED_FIRST` after their import."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the spec that the other finders return, extended to patch the module after its execution."""
        if name not in ASKED_FIRST:
            return None
        others = (one.find_spec(name, path, target) for one in sys.meta_path if one is not self)
        spec = next((one for one in others if one is not None), None)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_ask(module: ModuleType) -> None:
                run(module)
                _ask(module)

            # The loader instance serves only this module, so it can be patched.
            spec.loader.exec_module = run_and_ask  # type: ignore[method-assign]
        return spec


def _ask(module: ModuleType) -> None:
    """Patch the module's Auto class to register this project's classes before it first loads something."""
    auto: Any = getattr(module, ASKED_FIRST[module.__name__], None)
    stock = vars(auto).get("from_pretrained") if auto is not None else None
    if not isinstance(stock, classmethod):
        return

    @wraps(stock.__func__)
    def from_pretrained(cls: Any, *args: Any, **options: Any) -> Any:
        if vars(auto).get("from_pretrained") is asking:
            auto.from_pretrained = stock
        # Without torch this project's checkpoints can't be loaded, but everything else must work as before.
        with suppress(ImportError):
            import mllm_eval.model  # noqa: F401
        return stock.__func__(cls, *args, **options)

    asking: Any = classmethod(from_pretrained)
    auto.from_pretrained = asking


def register_when_asked() -> None:
    """Arrange the registration, whether transformers is imported already or later; this imports nothing."""
    if any(isinstance(one, _Watch) for one in sys.meta_path):
        return
    sys.meta_path.insert(0, _Watch())
    for name in ASKED_FIRST:
        if (module := sys.modules.get(name)) is not None:
            _ask(module)
