"""Validates colours in yaml files."""

from __future__ import annotations

from contextlib import suppress


def colour(value: str | None) -> str | None:
    """Convert a CSS name or a hex colour to `#rrggbb`, so that equal colours are written equally. None stays None.

    Raises ValueError for any other text, and for a colour with alpha.
    """
    if value is None:
        return None
    from PIL import ImageColor

    channels: tuple[int, ...] = ()
    with suppress(ValueError):
        channels = ImageColor.getrgb(value)
    if len(channels) != 3:
        raise ValueError('a colour is a name such as white, or "#rrggbb" in quotes; null drops alpha')
    return "#{:02x}{:02x}{:02x}".format(*channels)
