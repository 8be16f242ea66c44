"""Decode images to 8-bit RGB, upright and within a size limit; see "Pixels" in docs/data.md."""

from __future__ import annotations

import importlib
import io
import re
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mllm_eval.environment import cores
from mllm_eval.errors import UserError
from mllm_eval.pixelrange import in_eight_bits
from mllm_eval.storage import sha256_bytes

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    from numpy.typing import NDArray

MAX_PIXELS = 100_000_000
MOST_DECODERS = 8
ORIENTATION = 0x0112
# Image formats of data sets, by PIL's modules. PIL's other formats are disabled, as reading EPS, for instance, runs a
# program that executes the file's content.
FORMATS = ("Png", "Jpeg", "Gif", "WebP", "Bmp", "Tiff", "Ppm", "Jpeg2K", "Avif", "Ico")
# EXIF orientation -> the PIL transposition that makes the image upright (EXIF 2.32, section 4.6.4).
UPRIGHT = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270",
           7: "TRANSVERSE", 8: "ROTATE_90"}  # fmt: skip


class Decoding(NamedTuple):
    """How an image is converted to RGB.

    upright: whether it is rotated by its EXIF (or XMP) orientation. background: colour `#rrggbb` behind a transparent
    image; None drops the alpha channel, as PIL's `convert("RGB")` does.
    """

    upright: bool = True
    background: str | None = None


PLAIN = Decoding()


def decode(data: bytes, where: str, how: Decoding = PLAIN) -> PIL.Image.Image:
    """Decode an encoded image to RGB; only the first frame is read.

    Raises UserError, naming `where`, for data that are no image or truncated, for more than 100 million pixels (or
    PIL's own limit, if lower), and for values that are not finite.
    """
    with _Opened(io.BytesIO(data), where) as image:
        return to_rgb(image, how)


def load_image(path: Path, how: Decoding = PLAIN, where: str = "") -> PIL.Image.Image:
    """Decode an image file as `decode` does. Raises UserError, naming `where` or the file, also if it is missing."""
    where = where or str(path)
    return decode(encoded_image(path, where), where, how)


def load_map(path: Path) -> NDArray[np.int64]:
    """Read a file with one integer per pixel, such as a class mask or a depth map, as int64 [H, W].

    Raises UserError, naming the file, for a missing file, another kind of image, or one that `decode` would refuse.
    """
    import numpy as np

    with _Opened(io.BytesIO(encoded_image(path, str(path))), str(path)) as image:
        values = np.asarray(image)
        if values.ndim != 2 or values.dtype.kind not in "iub":
            raise UserError(
                f"{path}: {values.dtype} values of shape {values.shape}; a map has one whole number a pixel"
            )
        return values.astype(np.int64)


def encoded_image(path: Path, where: str) -> bytes:
    """Return the bytes of an image file. Raises UserError, which begins with `where`, if it can't be read."""
    try:
        return path.read_bytes()
    except OSError as problem:
        raise UserError(f"{where}: the image can't be read ({problem.strerror})") from None


class Peculiar(NamedTuple):
    """Properties of an image that a plain conversion to 8-bit RGB gets wrong.

    tagged: it has an EXIF (or XMP) orientation. deep: it is greyscale of 16 or 32 bits. clear: it is partly
    transparent.
    """

    tagged: bool
    deep: bool
    clear: bool


def peculiar(path: Path, where: str) -> Peculiar:
    """Return the peculiarities of an image file, after decoding it completely. Raises UserError as `load_image`."""
    with _Opened(io.BytesIO(encoded_image(path, where)), where) as image:
        tagged = _orientation(image) is not None
        deep = image.mode.startswith("I") or image.mode == "F"
        to_rgb(image)
        clear = image.has_transparency_data
        if clear and not deep:
            # A fully opaque alpha channel has no effect.
            clear = image.convert("RGBA").getchannel("A").histogram()[255] < image.width * image.height
        return Peculiar(tagged, deep, clear)


def look_at_image(path: Path) -> None:
    """Check an image file's header without decoding pixels. Raises UserError if the header can't be decoded."""
    with _Opened(path, str(path)):
        pass


def upright_size(image: PIL.Image.Image, how: Decoding = PLAIN) -> tuple[int, int]:
    """Return width and height of an image after decoding to RGB, without reading its pixels."""
    width, height = image.size
    turned = how.upright and image.format != "TIFF" and (_orientation(image) or 1) >= 5
    return (height, width) if turned else (width, height)


def size_of(source: bytes | Path, how: Decoding = PLAIN, where: str = "") -> tuple[int, int]:
    """Return `upright_size` of an encoded image or a file. Raises UserError, naming `where`, for a broken header."""
    if isinstance(source, bytes):
        source, where = io.BytesIO(source), where or "image"  # type: ignore[assignment]
    with _Opened(source, where or str(source)) as image:
        return upright_size(image, how)


def pixels_key(data: bytes, how: Decoding = PLAIN) -> str:
    """Return the key under which an image's features and answers are stored: 64 hex digits.

    It is the SHA-256 of the encoded bytes if decoding equals PIL's `convert("RGB")`. If decoding does more (rotates,
    rescales values, adds a background), these operations are hashed as well, so that one file decoded in two ways has
    two keys. Only the header is read; an image with an unreadable header has the plain SHA-256.
    """
    sha = sha256_bytes(data)
    said = [] if _is_plain(data, how) else _changes(data, how)
    return sha256_bytes(f"{sha} {' '.join(said)}".encode()) if said else sha


def orientation_tag(data: bytes) -> int | None:
    """Return an image's EXIF (or XMP) orientation, which may be 1 (upright); None without one."""
    if _is_plain(data, PLAIN):
        return None
    try:
        with _Opened(io.BytesIO(data), "") as image:
            return _orientation(image)
    except UserError:
        return None


def to_rgb(image: PIL.Image.Image, how: Decoding = PLAIN) -> PIL.Image.Image:
    """Convert an image of any PIL mode to RGB, without metadata that a later reader could apply again.

    Raises ValueError for values that are not finite, or a mode that can't be converted.
    """
    import PIL.Image

    if image.mode == "RGB" and not image.info and not hasattr(image, "tag_v2"):
        return image.copy()
    # PIL's TIFF reader rotates the image while loading, and then removes the tag.
    image.load()
    turn = UPRIGHT.get(_orientation(image) or 1) if how.upright else None
    whole = in_eight_bits(image)
    if how.background is not None and whole.has_transparency_data:
        seen = whole.convert("RGBA")
        whole = PIL.Image.alpha_composite(PIL.Image.new("RGBA", seen.size, how.background), seen)
    made = whole.convert("RGB")
    if turn is not None:
        made = made.transpose(PIL.Image.Transpose[turn])
    made.info = {}
    return made


class _Opened:
    """Context of an opened image whose header is valid and within the size limit; errors inside become UserError."""

    def __init__(self, source: Any, where: str) -> None:
        self._source, self._where = source, where
        self._image: PIL.Image.Image | None = None

    def __enter__(self) -> PIL.Image.Image:
        import PIL.Image

        try:
            self._image = PIL.Image.open(self._source, formats=_formats())
        except Exception as problem:
            raise self._error(problem) from None
        width, height = self._image.size
        # PIL only warns about images above its own limit; here that is an error.
        most = min(MAX_PIXELS, PIL.Image.MAX_IMAGE_PIXELS or MAX_PIXELS)
        if width * height > most:
            self._image.close()
            raise UserError(f"{self._where}: image of {width} x {height} pixels, more than {most:,} in all")
        return self._image

    def __exit__(self, _: object, problem: BaseException | None, __: object) -> None:
        if self._image is not None:
            self._image.close()
        if isinstance(problem, Exception) and not isinstance(problem, UserError):
            raise self._error(problem) from None

    def _error(self, problem: Exception) -> UserError:
        # PIL's plugins raise errors of many types on a broken file.
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        # Memory addresses in the message would make the reasons of two runs differ.
        reason = re.sub(r" ?<[^<>]* at 0x[0-9a-f]+>", "", reason)
        return UserError(f"{self._where}: the image can't be decoded ({reason})")


@cache
def _formats() -> tuple[str, ...]:
    import PIL.Image

    for name in FORMATS:
        # A build of PIL may lack the library of a format.
        with suppress(ImportError):
            importlib.import_module(f"PIL.{name}ImagePlugin")
    return tuple(name for name in map(_opened_as, FORMATS) if name in PIL.Image.OPEN)


def _opened_as(name: str) -> str:
    return {"Jpeg2K": "JPEG2000", "WebP": "WEBP"}.get(name, name.upper())


def _is_plain(data: bytes, how: Decoding) -> bool:
    """Whether a quick look at the bytes shows that `_changes` would find nothing, as for most images."""
    if any(mark in data for mark in (b"Exif\0\0", b"tiff:Orientation", b"eXIf", b"Raw profile type")):
        return False
    if data[:2] == b"\xff\xd8":
        return True
    if data[:8] != b"\x89PNG\r\n\x1a\n" or b"XML:com.adobe.xmp" in data:
        return False
    depth, colours = data[24:26].ljust(2, b"\0")
    clear = colours in (4, 6) or b"tRNS" in data
    return not (depth == 16 and colours in (0, 4)) and not (clear and how.background is not None)


def _changes(data: bytes, how: Decoding) -> list[str]:
    try:
        with _Opened(io.BytesIO(data), "") as image:
            said = []
            if image.mode.startswith("I") or image.mode == "F":
                said.append("range")
            if how.background is not None and image.has_transparency_data:
                said.append(f"on {how.background}")
            # PIL always rotates a TIFF itself.
            if how.upright and image.format != "TIFF" and (turn := _orientation(image)) in UPRIGHT:
                said.append(f"orientation {turn}")
            return said
    except UserError:
        return []


def _orientation(image: PIL.Image.Image) -> int | None:
    """Return the orientation tag; None if it is missing or its block is unreadable, which viewers ignore as well."""
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:
        return None
    return orientation if isinstance(orientation, int) else None


def decoders() -> int:
    """Return the number of decoding threads: this process's share of the cores (PIL releases the GIL), at most 8."""
    return min(MOST_DECODERS, cores())
