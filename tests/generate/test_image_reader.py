"""Images are loaded ahead, once, and in another thread."""

from __future__ import annotations

import threading
from collections import Counter

from mllm_eval.data.samples import ImageRef
from mllm_eval.generate.backend import ImageReader


def refs(*names: str) -> list[ImageRef]:
    return [ImageRef(name, lambda: None) for name in names]  # type: ignore[arg-type, return-value]


class Loader:
    """Loads an image as its name; `broken` cannot be read."""

    def __init__(self) -> None:
        self.loaded: Counter[str] = Counter()
        self.threads: set[int] = set()

    def __call__(self, images: list[ImageRef]) -> list[str]:
        self.threads.add(threading.get_ident())
        if any(image.sha256 == "broken" for image in images):
            raise OSError("cut off\nin the middle")
        self.loaded.update(image.sha256 for image in images)
        return [image.sha256 for image in images]


def test_images_that_were_begun_are_loaded_once_and_elsewhere() -> None:
    load = Loader()
    reader = ImageReader(load)
    reader.begin(refs("a", "b"))
    reader.begin(refs("c"))
    assert reader.read(refs("b")) == ({"a": "a", "b": "b"}, {})
    for again in (refs("a"), refs("b", "a")):
        assert reader.read(again) == ({"a": "a", "b": "b"}, {})
    assert reader.read(refs("c")) == ({"c": "c"}, {})
    assert load.loaded == {"a": 1, "b": 1, "c": 1}
    assert threading.get_ident() not in load.threads


def test_a_batch_that_is_not_read_is_passed_over_and_an_unknown_image_is_loaded_at_once() -> None:
    load = Loader()
    reader = ImageReader(load)
    reader.begin(refs("a"))
    reader.begin(refs("b"))
    assert reader.read(refs("b")) == ({"b": "b"}, {})
    assert reader.read(refs("c", "c")) == ({"c": "c"}, {})
    assert load.loaded["b"] == load.loaded["c"] == 1
    assert reader.read([]) == ({"c": "c"}, {})


def test_only_the_broken_image_of_a_batch_fails() -> None:
    reader = ImageReader(Loader())
    assert reader.read(refs("a", "broken", "b")) == ({"a": "a", "b": "b"}, {"broken": "cut off in the middle"})
