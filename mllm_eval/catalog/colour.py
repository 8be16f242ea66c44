"""Colours as a yaml file writes them."""

from __future__ import annotations

from contextlib import suppress


def colour(value: str | None) -> str | None:
    """`#rrggbb` of a CSS name or a colour in hex, so that two ways to write one are one; None stays None.

    Raises ValueError for what is neither, or has alpha of its own.
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
