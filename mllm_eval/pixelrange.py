"""Convert greyscale images of more than 8 bits to 8 bits; see "Pixels" in docs/data.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import PIL.Image

# TIFF tags: bits per sample, photometric interpretation (0: zero is white), sample format (1: unsigned, the default).
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339


def in_eight_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """Convert 16- or 32-bit greyscale to mode L, or LA if one value is marked as transparent.

    Other images are returned unchanged. Raises ValueError for values that are not finite.
    """
    import numpy as np
    import PIL.Image

    if not image.mode.startswith("I") and image.mode != "F":
        return image
    tags = getattr(image, "tag_v2", {})
    # PIL stores unsigned 32-bit values as signed ones.
    unsigned = image.mode == "I" and BITS in tags and tags[BITS] == (32,) and tags.get(SAMPLE_FORMAT, (1,)) == (1,)
    values = np.asarray(image)
    values = values.view(np.uint32) if unsigned and values.dtype == np.int32 else values
    if not np.isfinite(values).all():
        raise ValueError("it has values that are not finite")
    low, high = _range(image, tags, float(values.min()), float(values.max()))
    if image.mode == "F":
        grey = np.rint((values.astype(np.float64) - low) * (255 / (high - low)))
    else:
        # The upper eight bits, as PIL does for 16-bit colour: 8-bit values that were shifted are restored exactly.
        grey = (values.astype(np.int64) - int(low)) * 256 // (int(high) - int(low) + 1)
    if tags.get(PHOTOMETRIC) == 0 and image.mode != "I":
        grey = 255 - grey
    made = PIL.Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    if isinstance(clear := image.info.get("transparency"), int):
        made.putalpha(PIL.Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return made


def _range(image: PIL.Image.Image, tags: Any, lowest: float, highest: float) -> tuple[float, float]:
    """Return the values of black and white: as the file declares, else the smallest usual range with all values."""
    if image.mode.startswith("I;16"):
        return 0, 4095 if tags.get(BITS) == (12,) else 65535
    if image.mode == "I" and image.format in ("PNG", "PPM"):
        return 0, 65535
    usual = (1.0, 255.0) if image.mode == "F" else (255, 65535)
    if (white := next((top for top in usual if highest <= top), None)) is not None and lowest >= 0:
        return 0, white
    return lowest, max(highest, lowest + 1)
