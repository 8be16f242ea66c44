"""Training images of a recipe that occur in a folder of images, such as LAION's, which no file name tells.

Both are hashed once, whole. A hash of the folder near that of a training image is a candidate, and the encoder's
features confirm it, as for benchmarks.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from mllm_eval.catalog import Encoder, Recipe
from mllm_eval.config import short_hash, validate
from mllm_eval.data.samples import ImageRef
from mllm_eval.errors import UserError
from mllm_eval.leaks.findings import PICTURED, Overlap, Overlapping, Settings
from mllm_eval.leaks.hashing import Viewed
from mllm_eval.leaks.matching import USUAL, Pairs, Tolerance, calibrated, compared, images_of, load, names_of
from mllm_eval.leaks.pieces import save, saved
from mllm_eval.leaks.search import nearest
from mllm_eval.leaks.sources import SearchSource, Step, hashed_source, settings_of, silent
from mllm_eval.leaks.thumbnails import image_name, picture_name, write_thumbnails
from mllm_eval.leaks.trainingsets import identity_of
from mllm_eval.storage import read_json, write_json, write_jsonl

if TYPE_CHECKING:
    from mllm_eval.leaks.confirming import Calibration, SummaryEncoder

# The nearest images of the folder that are looked at for each training image.
MOST = 16
# Training images that are searched at a time, and images of the folder whose pairs are confirmed at a time.
SEARCHED, CONFIRMED = 2**17, 4096


def find_overlap(
    recipe: Recipe,
    against: Path,
    encoder: Encoder,
    *,
    tolerance: Tolerance = USUAL,
    step: Step = silent,
    say: Callable[[str], None] = lambda _: None,
) -> Overlapping:
    """Searches a folder of images (or tar shards, or parquet files) for the training images of a recipe.

    The threshold is calibrated on pairs of different training images. Results are saved per piece: the same call
    resumes where it stopped, and computes nothing twice.

    Raises:
        UserError: missing data or library, no readable images, or a value out of range.
    """
    noted = settings_of(encoder, tolerance, 1, MOST)
    # Missing training data are told before the folder is hashed.
    identity_of(recipe)
    others, own = (hashed_source(one, step, say) for one in (against, recipe))
    of = short_hash([noted.model_dump(mode="json"), own.hashed.state, others.corpus.identity, others.hashed.state], 16)
    folder = own.folder / "against" / others.folder.name
    path = folder / "counts.json"
    if path.is_file():
        known = validate(read_json(path), Overlap, str(path))
        if known.of == of:
            return Overlapping(folder, known)
        # Old counts never stand next to new lists, and thumbnails are named by an image's number.
        path.unlink()
        shutil.rmtree(folder / "thumbs", ignore_errors=True)
    parts = folder / "parts"
    for old in parts.glob("*"):
        if old.name != of:
            shutil.rmtree(old)
    from mllm_eval.leaks.confirming import SummaryEncoder

    with step(f"leaks: {own.corpus.name} in {others.corpus.name} (pairs)") as told:
        starts = range(0, len(own.hashed.hashes), SEARCHED)
        blocks = []
        for done, start in enumerate(starts, 1):
            blocks.append(_candidates(own, others, tolerance.radius, start, parts / of))
            told(done, len(starts))
        pairs = _joined(blocks)
    judge = SummaryEncoder(encoder)
    calibration = _calibration(own, judge, tolerance) if len(pairs.picture) else None
    with step(f"leaks: {own.corpus.name} in {others.corpus.name} (features)") as told:
        images = np.unique(pairs.image)
        similarity = pairs.similarity.copy()
        for start in range(0, len(images) if calibration else 0, CONFIRMED):
            assert calibration is not None
            some = images[start : start + CONFIRMED]
            asked = np.flatnonzero((pairs.image >= some[0]) & (pairs.image <= some[-1]))
            piece = parts / of / f"similarity-{start:09d}.npz"
            if not piece.is_file():
                part = pairs.at(asked)
                save(piece, {"similarity": confirm_pairs(part, own, others, judge, calibration)})
            similarity[asked] = saved(piece)["similarity"]
            told(start + len(some), len(images))
    over = calibration.threshold if calibration else None
    pairs = pairs._replace(similarity=similarity)
    same = pairs.where(similarity > over if over is not None else np.zeros(len(similarity), bool))
    _write(folder, same, own, others)
    counts = _counted(own, others, noted, of, pairs, same, calibration)
    write_json(path, counts.model_dump(mode="json"))
    return Overlapping(folder, counts)


def _candidates(own: SearchSource, others: SearchSource, radius: int, start: int, folder: Path) -> Pairs:
    """The pairs of some training images; `picture` is the place of the image among the hashed ones."""
    piece = folder / f"near-{start:09d}.npz"
    if not piece.is_file():
        asked = own.hashed.hashes[start : start + SEARCHED]
        picture, place, _, distance, total = nearest(others.hashed.hashes, asked[:, None], radius, MOST)
        save(piece, {"picture": picture + start, "image": others.hashed.image[place], "distance": distance,
                     "total": total.sum()})  # fmt: skip
    arrays = saved(piece)
    count = len(arrays["picture"])
    return Pairs(arrays["picture"], arrays["image"], np.zeros(count, np.int64), arrays["distance"],
                 np.full(count, np.nan, np.float32), int(arrays["total"]))  # fmt: skip


def _joined(parts: list[Pairs]) -> Pairs:
    return Pairs(
        np.concatenate([one.picture for one in parts]), np.concatenate([one.image for one in parts]),
        np.concatenate([one.view for one in parts]), np.concatenate([one.distance for one in parts]),
        np.concatenate([one.similarity for one in parts]), sum(one.total for one in parts),
    )  # fmt: skip


def _ref(own: SearchSource, picture: int) -> ImageRef:
    """A training image by its place among the hashed ones. The key stands for its content: both are from one state."""
    sets = own.own
    assert sets is not None
    image = int(own.hashed.image[picture])

    def opened() -> PIL.Image.Image:
        for _, shown in images_of(own.corpus, own.hashed, np.array([image])):
            return load(shown, own.corpus)
        raise UserError(f"{own.corpus.name}: image {image} can't be read again")

    return ImageRef(f"{sets.key(image):016x}", opened)


def _calibration(own: SearchSource, judge: SummaryEncoder, tolerance: Tolerance) -> Calibration:
    from mllm_eval.leaks.confirming import CALIBRATED

    count = len(own.hashed.hashes)
    chosen = np.linspace(0, count - 1, min(CALIBRATED, count)).astype(int)
    return calibrated(_whole(own, chosen), judge, tolerance)


def confirm_pairs(
    pairs: Pairs, own: SearchSource, others: SearchSource, judge: SummaryEncoder, calibration: Calibration
) -> NDArray[np.float32]:
    """The calibrated similarity [n] of the encoder's features of each pair."""
    numbered, pictures = _numbered(pairs)
    viewed = _whole(own, pictures)
    return compared(numbered, viewed, others.hashed, others.corpus, judge, calibration.mean).similarity


def _numbered(pairs: Pairs) -> tuple[Pairs, NDArray[np.int64]]:
    """The pairs with their training images counted from 0, and the place of each of these among the hashed ones."""
    pictures, numbers = np.unique(pairs.picture, return_inverse=True)
    return pairs._replace(picture=numbers.reshape(-1)), pictures


def _whole(own: SearchSource, places: NDArray[np.int64]) -> Viewed:
    """Training images by their places among the hashed ones, in no other view than the whole image."""
    return Viewed(own.hashed.hashes[places][:, None], [_ref(own, at) for at in places.tolist()], [])


def _write(folder: Path, same: Pairs, own: SearchSource, others: SearchSource) -> None:
    numbered, pictures = _numbered(same.at(slice(PICTURED)))
    write_thumbnails(numbered, _whole(own, pictures).pictures, others.corpus, others.hashed, folder / "thumbs")
    named = names_of(own.corpus, own.hashed, own.hashed.image[same.picture])
    others_named = names_of(others.corpus, others.hashed, same.image)

    def rows() -> Iterator[dict[str, Any]]:
        columns = (same.picture, same.image, same.distance, same.similarity)
        listed = zip(*(column.tolist() for column in columns), strict=True)
        for number, (picture, image, distance, similarity) in enumerate(listed):
            name, where = named.get(int(own.hashed.image[picture]), ("", ""))
            other, other_where = others_named.get(image, ("", ""))
            thumbs = {"picture_thumb": picture_name(_ref(own, picture)), "image_thumb": image_name(image)}
            yield {
                "image": name, "where": where, "other": other, "other_where": other_where, "distance": distance,
                "similarity": round(similarity, 4),
                **({key: file for key, file in thumbs.items() if (folder / "thumbs" / file).is_file()}
                   if number < PICTURED else {}),
            }  # fmt: skip

    write_jsonl(folder / "pairs.jsonl", rows())


def _counted(
    own: SearchSource,
    others: SearchSource,
    noted: Settings,
    of: str,
    pairs: Pairs,
    same: Pairs,
    calibration: Calibration | None,
) -> Overlap:
    return Overlap(
        recipe=own.corpus.name, against=others.corpus.name, of=of, settings=noted, images=own.hashed.images,
        broken_images=own.hashed.broken, broken_images_first=own.hashed.reasons, broken_rows=own.read.broken,
        broken_rows_first=own.read.reasons, others=others.hashed.images, broken_others=others.hashed.broken,
        broken_others_first=others.hashed.reasons, candidates=pairs.total,
        looked_at=int(np.isfinite(pairs.similarity).sum()), different=calibration.pairs if calibration else 0,
        threshold=calibration.threshold if calibration else None, alarm=calibration.alarm if calibration else None,
        pairs=len(same.picture), copied=len(np.unique(same.picture)),
    )  # fmt: skip
