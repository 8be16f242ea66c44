"""What the rest of the project sees of a benchmark's row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import PIL.Image


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image by its content.

    sha256: hex digest of the encoded bytes as they stand in the data set (the key of the feature store).
    load: decodes the image to RGB; raises UserError naming file and row when it is broken or too large.
    """

    sha256: str
    load: Callable[[], PIL.Image.Image]


@dataclass(frozen=True, slots=True)
class Sample:
    """One question.

    id: unique in its benchmark. prompt: the user's text without `<image>` lines and without a template.
    target: the gold answer as text (to show, not to score).
    group: samples that are scored together (a pair, the rotations of a question).
    cluster: samples that are not independent, normally those on one image.
    record: the upstream row without image bytes; the scorers read it.
    """

    benchmark: str
    id: str
    images: tuple[ImageRef, ...]
    prompt: str
    target: str
    group: str
    cluster: str
    record: Mapping[str, Any]
