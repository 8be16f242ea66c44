"""The one way from an encoded image to RGB: bounded, upright, in eight bits; see "Pixels" in docs/data.md."""

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
# What images of data sets are encoded as, by PIL's modules. It reads many formats more, EPS by starting a program that
# runs what the file says: none of them is asked for here.
FORMATS = ("Png", "Jpeg", "Gif", "WebP", "Bmp", "Tiff", "Ppm", "Jpeg2K", "Avif", "Ico")
# EXIF 2.32, 4.6.4: what makes an image of this orientation upright, in PIL's words.
UPRIGHT = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270",
           7: "TRANSVERSE", 8: "ROTATE_90"}  # fmt: skip


class Decoding(NamedTuple):
    """How an image becomes RGB.

    upright: turned as its EXIF (or XMP) orientation says. background: the colour `#rrggbb` that a transparent image is
    laid on; None drops its alpha, as PIL's `convert("RGB")` does.
    """

    upright: bool = True
    background: str | None = None


PLAIN = Decoding()


def decode(data: bytes, where: str, how: Decoding = PLAIN) -> PIL.Image.Image:
    """An encoded image as RGB, frames after the first ignored.

    Raises UserError, naming `where`, for what is no image, is cut short, has over 100 million pixels, or values that
    are not finite.
    """
    with _Opened(io.BytesIO(data), where) as image:
        return to_rgb(image, how)


def load_image(path: Path, how: Decoding = PLAIN, where: str = "") -> PIL.Image.Image:
    """An image file, decoded as `decode` does; UserError, naming `where` or the file, where it is missing, too."""
    where = where or str(path)
    return decode(encoded_image(path, where), where, how)


def load_map(path: Path) -> NDArray[np.int64]:
    """[H, W] the numbers of a file that has one whole number a pixel: a mask of classes, a map of depths.

    Raises UserError, naming the file, where it is missing, is no such map, or is one that `decode` would refuse.
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
    """The bytes of an image file. Raises UserError, which begins with `where`, where it can't be read."""
    try:
        return path.read_bytes()
    except OSError as problem:
        raise UserError(f"{where}: the image can't be read ({problem.strerror})") from None


class Peculiar(NamedTuple):
    """What makes an image look otherwise than its pixels, read as eight bits a colour, would.

    tagged: it has an EXIF (or XMP) orientation. deep: it is grey of 16 or 32 bits. clear: some of it is transparent.
    """

    tagged: bool
    deep: bool
    clear: bool


def peculiar(path: Path, where: str) -> Peculiar:
    """What is peculiar about an image file, decoded to its end; UserError as of `load_image`."""
    with _Opened(io.BytesIO(encoded_image(path, where)), where) as image:
        tagged = _orientation(image) is not None
        deep = image.mode.startswith("I") or image.mode == "F"
        to_rgb(image)
        clear = image.has_transparency_data
        if clear and not deep:
            # An alpha of which nothing is clear changes nothing.
            clear = image.convert("RGBA").getchannel("A").histogram()[255] < image.width * image.height
        return Peculiar(tagged, deep, clear)


def look_at_image(path: Path) -> None:
    """Read an image file's header, not its pixels. Raises UserError where that tells that `decode` would."""
    with _Opened(path, str(path)):
        pass


def upright_size(image: PIL.Image.Image, how: Decoding = PLAIN) -> tuple[int, int]:
    """Width and height that an image has in RGB; its pixels are not read."""
    width, height = image.size
    turned = how.upright and image.format != "TIFF" and (_orientation(image) or 1) >= 5
    return (height, width) if turned else (width, height)


def size_of(source: bytes | Path, how: Decoding = PLAIN, where: str = "") -> tuple[int, int]:
    """`upright_size` of an encoded image or a file; UserError, naming `where`, for a header that cannot be read."""
    if isinstance(source, bytes):
        source, where = io.BytesIO(source), where or "image"  # type: ignore[assignment]
    with _Opened(source, where or str(source)) as image:
        return upright_size(image, how)


def pixels_key(data: bytes, how: Decoding = PLAIN) -> str:
    """What an image's features and answers are stored under, 64 hex digits.

    It is the SHA-256 of the encoded bytes where the pixels are those of PIL's `convert("RGB")` alone. Where the
    decoding makes others of them (turned, scaled, laid on a colour), what it does is hashed with it: one image read in
    two ways is two images. Reads the header; an image without a readable one has the SHA-256.
    """
    sha = sha256_bytes(data)
    said = [] if _is_plain(data, how) else _changes(data, how)
    return sha256_bytes(f"{sha} {' '.join(said)}".encode()) if said else sha


def orientation_tag(data: bytes) -> int | None:
    """The EXIF (or XMP) orientation that an image carries, 1 (upright already) among them; None without one."""
    if _is_plain(data, PLAIN):
        return None
    try:
        with _Opened(io.BytesIO(data), "") as image:
            return _orientation(image)
    except UserError:
        return None


def to_rgb(image: PIL.Image.Image, how: Decoding = PLAIN) -> PIL.Image.Image:
    """An image of any of PIL's modes as RGB without a tag that a later reader could apply again.

    Raises ValueError for values that are not finite or a mode that has no RGB.
    """
    import PIL.Image

    if image.mode == "RGB" and not image.info and not hasattr(image, "tag_v2"):
        return image.copy()
    # TIFF's own reader turns the image while it loads it, and forgets the tag then.
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
    """An image whose header was read and found within bounds; what goes wrong with it is a UserError."""

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
        # PIL warns of what is above its own limit: that is an error here, not a line that nobody reads.
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
        # PIL's plugins raise nearly anything on a broken file.
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        # It names the bytes by where they lie in memory: two runs would give two reasons.
        reason = re.sub(r" ?<[^<>]* at 0x[0-9a-f]+>", "", reason)
        return UserError(f"{self._where}: the image can't be decoded ({reason})")


@cache
def _formats() -> tuple[str, ...]:
    import PIL.Image

    for name in FORMATS:
        # A build of PIL may lack the library of one.
        with suppress(ImportError):
            importlib.import_module(f"PIL.{name}ImagePlugin")
    return tuple(name for name in map(_opened_as, FORMATS) if name in PIL.Image.OPEN)


def _opened_as(name: str) -> str:
    return {"Jpeg2K": "JPEG2000", "WebP": "WEBP"}.get(name, name.upper())


def _is_plain(data: bytes, how: Decoding) -> bool:
    """Whether the bytes alone tell that `_changes` will find nothing, as they do for most images."""
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
            # A TIFF is turned by PIL itself, whatever is asked.
            if how.upright and image.format != "TIFF" and (turn := _orientation(image)) in UPRIGHT:
                said.append(f"orientation {turn}")
            return said
    except UserError:
        return []


def _orientation(image: PIL.Image.Image) -> int | None:
    """The tag; None without one, and where the block that holds it can't be read, as viewers have it."""
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:
        return None
    return orientation if isinstance(orientation, int) else None


def decoders() -> int:
    """Threads that decode images, for which PIL works without Python's lock: this process's share of the cores."""
    return min(MOST_DECODERS, cores())
