"""Which fields a training row may have: fields that are read, known notes, and fields that stop the training.

A row whose picture is not read would be trained on as text alone. A field is therefore only skipped if it is listed
here or in the recipe's `ignore`. A field about a picture, video or sound that the row does not show is never skipped.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from mllm_eval.errors import near

# Fields that a row, or one of its messages, is read from.
READ = frozenset({"image", "images", "conversations", "messages", "system"})
READ_OF_MESSAGE = frozenset({"from", "value", "role", "content", "weight", "loss", "train"})

# Metadata fields of public training sets (LLaVA, ShareGPT4V, ALLaVA, InternVL, OpenHermes and others).
NOTES = frozenset({
    "id", "idx", "index", "uid", "uuid", "key", "hash", "title", "name", "source", "sources", "data_source",
    "datasource", "source_dataset", "dataset", "dataset_name", "dataset_id", "subset", "subset_name", "split",
    "origin", "type", "data_type", "datatype", "task", "task_name", "task_type", "category", "categories",
    "subcategory", "topic", "subject", "domain", "skill", "difficulty", "level", "language", "lang", "model",
    "model_name", "generator", "annotator", "version", "license", "metadata", "meta", "tag", "tags", "score",
    "scores", "quality", "views", "timestamp", "time", "date", "created", "created_at", "width", "height", "length",
    "num_turns", "num_tokens", "token_count", "n_tokens", "question_id", "conversation_id", "sample_id", "qid",
})  # fmt: skip

# Metadata about the row's picture. In a row without a picture they show that a picture is missing.
NOTES_OF_IMAGE = frozenset({
    "image_id", "img_id", "image_url", "image_source", "image_size", "image_width", "image_height", "image_hash",
    "image_sha256", "image_name", "coco_url", "flickr_url", "url", "original_url", "bbox", "bboxes", "boxes",
})  # fmt: skip

_WORDS = "image|images|img|imgs|picture|pictures|photo|photos|pixel|pixels|video|videos|audio|audios|speech|frames"
_MEDIUM = re.compile(rf"(?:^|[^a-z])(?:{_WORDS})(?:[^a-z]|$)|(?:{_WORDS})$|^(?:{_WORDS})")
_FILE = re.compile(
    r"(?:^data:(?:image|video|audio)/)|\.(?:png|jpe?g|jfif|webp|gif|bmp|tiff?|heic|avif|svg|mp4|m4v|avi|mov|mkv|webm|"
    r"mpe?g|wav|mp3|flac|ogg|opus|m4a)(?:[?#].*)?\s*$",
    re.IGNORECASE,
)
# Marks that other tools put into the text in place of a picture: a file name between tags, or a special token.
_MARK_OF_OTHERS = re.compile(
    # Every alternative begins with "<", so that the search can jump from one "<" to the next.
    r"<(?:img>[^<>]+</img>|\|(?:image|video|audio|vision)\w*\|>|ImageHere>|image_placeholder>|"
    r"(?<=\A<)(?:video|audio)>(?!.*</))",
    re.DOTALL,
)

# Texts that mean "no image", as in Cambrian's reader, which compares the text form of the value.
_NO_NAME = frozenset({"", "None", "none", "nan"})


def is_nothing(value: object) -> bool:
    """Whether a value is empty: null, NaN, an empty text or list, a dict of nulls, or the texts None, none, nan."""
    if value is None or (isinstance(value, str) and value in _NO_NAME):
        return True
    if isinstance(value, float):
        return value != value
    if isinstance(value, dict):
        return all(one is None for one in value.values())
    return isinstance(value, list) and all(is_nothing(one) for one in value)


def speaks_of_media(key: str) -> bool:
    """Whether a field's name refers to a picture, a video or a sound."""
    return _MEDIUM.search(key.lower()) is not None


def foreign_mark(text: str) -> str | None:
    """Another tool's mark for a picture, video or sound in a question; None if there is none."""
    mark = _MARK_OF_OTHERS.search(text)
    return mark and mark.group()


def check_fields(
    fields: Mapping[str, Any], read: Collection[str], pictured: bool, ignored: Collection[str], of: str = ""
) -> None:
    """Check that all fields of a row, or of one of its messages, are read or are known notes.

    pictured: whether the row shows an image. ignored: fields that the recipe skips. of: start of the error message.
    Raises ValueError that names the field.
    """
    for key, value in fields.items():
        if key in read or is_nothing(value):
            continue
        known = key in NOTES or (key in NOTES_OF_IMAGE and pictured)
        if not known and (key not in ignored or (speaks_of_media(key) and key not in NOTES_OF_IMAGE)):
            raise ValueError(f"{of}{_unknown(key, read)}")
        if not pictured and (place := _media_in(value, key)):
            raise ValueError(f"{of}`{place}` names a picture, video or sound, and the row shows no image")


def _unknown(key: str, read: Collection[str]) -> str:
    if key in NOTES_OF_IMAGE:
        return f"`{key}` tells of an image, and the row shows none; name its file under `image`"
    hint = near(key, read)
    if speaks_of_media(key):
        kind = "videos and sounds are not" if re.search("video|audio|speech|frames", key.lower()) else "others are not"
        return f"unknown key {key!r}.{hint} Pictures are read under `image` or `images`, {kind}"
    return f"unknown key {key!r}.{hint or ' Remove it, or pass over it by `ignore` of the recipe' + chr(39) + 's data'}"


def _media_in(value: object, at: str) -> str | None:
    """Path of the first entry in a value that names a picture, video or sound file, or whose field name does."""
    if isinstance(value, str):
        return at if _FILE.search(value) else None
    if isinstance(value, list):
        return next((place for one in value if (place := _media_in(one, at))), None)
    if isinstance(value, dict):
        for key, inner in value.items():
            place = f"{at}.{key}"
            if speaks_of_media(key) and not is_nothing(inner):
                return place
            if inner_place := _media_in(inner, place):
                return inner_place
    return None


def pictures(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The image files that a row names under `image` or `images`; empty if there are none.

    Raises ValueError if the values are not file names, or if the two fields name different files.
    """
    first, second = (_names(row[key], key) if key in row else () for key in ("image", "images"))
    if first and second and first != second:
        raise ValueError("`image` and `images` name different files; keep one of them")
    return first or second


def _names(value: object, key: str) -> tuple[str, ...]:
    if isinstance(value, str):
        return () if value in _NO_NAME else (file_name(value, key),)
    if is_nothing(value):
        return ()
    if isinstance(value, list):
        return tuple(_name(one, key) for one in value)
    return (_name(value, key),)


def _name(value: object, key: str) -> str:
    # `datasets` writes an image as a dict of its path and its bytes.
    if isinstance(value, dict) and value.keys() <= {"path", "bytes"}:
        if value.get("bytes") is not None:
            raise ValueError(f"`{key}` holds an image's bytes; write them to a file and name it")
        value = value.get("path")
    if not isinstance(value, str) or value in _NO_NAME:
        raise ValueError(f"`{key}` is neither a file name nor a list of them")
    return file_name(value, key)


def file_name(name: str, key: str) -> str:
    """Return a valid file name. Raises ValueError for a URL, for inline data, and for a path that can't exist."""
    if "://" in name or name.startswith("data:"):
        raise ValueError(f"`{key}` is {name[:40]!r}, not a file name; fetch the image and name its file")
    if len(name) > 4096 or "\0" in name or not is_text(name):
        raise ValueError(f"`{key}` cannot be a file name: {name[:40]!r}")
    if name.startswith(("/", "~")) or ".." in name.split("/"):
        raise ValueError(f"`{key}` is {name[:40]!r}, which leaves the image root; name a file below it")
    return name


def is_text(text: str) -> bool:
    """Whether a text can be encoded. JSON can contain one half of a surrogate pair, which is not a character."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
