"""MMMU rows: options as the text of a Python list, image tags in the text, up to seven images."""

from __future__ import annotations

import ast
import re
from typing import ClassVar, Literal

from mllm_eval.data.readers import Reading, Record, Settings, identity, lettered, present, shown, with_suffix
from mllm_eval.data.settings import Asked, takes

_QUOTED = re.compile(r"'(.*?)'")
_TAG = re.compile(r"<image (\d+)>")


class Tagged(Asked):
    """See `read`. Its images stand in columns `image_1` to `image_7`."""

    needed: ClassVar[tuple[str, ...]] = ()

    suffix_open: str | None
    options: Literal["quoted", "parsed"]
    images: Literal["first", "all"]


@takes(Tagged)
def read(record: Record, settings: Settings) -> Reading:
    """The question without its image tags.

    Settings: options `quoted` takes what stands between single quotes, as the paper's code does, or `parsed`
    reads the list; images `first` or `all` (those that the text names, in the order of their numbers).
    """
    text = str(record["question"])
    if record["question_type"] == "multiple-choice":
        quoted = settings["options"] == "quoted"
        options = _QUOTED.findall(record["options"]) if quoted else ast.literal_eval(record["options"])
        text = with_suffix(f"{text} Options:{lettered([str(option) for option in options])}", settings["suffix"])
    else:
        text = with_suffix(text, settings["suffix_open"])
    numbers = sorted({int(n) for n in _TAG.findall(text)}) if settings["images"] == "all" else [1]
    columns = [f"image_{n}" for n in numbers or [1] if present(record, f"image_{n}")]
    text = _TAG.sub("", text).rstrip()
    return Reading(
        id=identity(record, settings),
        images=tuple((column, 0) for column in columns),
        prompt=text if columns else text.lstrip(),
        target=shown(record.get("answer")),
    )
