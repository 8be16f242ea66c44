"""The yaml of a probe: which features it reads, how its head is trained and selected, and on which data.

Each kind of head has its own class in `KINDS`, which the yaml's `kind` names. Values that differ for one data set
(steps, sizes) are in that data set's `scaled`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mllm_eval.catalog.folders import folders, load_named
from mllm_eval.catalog.layers import Layers
from mllm_eval.config import Strict, key_lines, load, short_hash, validate
from mllm_eval.errors import UserError, near

Selection = Literal["train_holdout", "val", "none"]
Span = tuple[float, float]


class ProbeData(Strict):
    """A data set in one of the layouts that `mllm_eval.probes.layouts` reads.

    source: `local` is a folder under the data home (`folder`, see `storage.locate`), read without a lock. `hub` is a
        data set of the hub (`repo`, `revision`), `url` an archive, `folder` a folder that the user gives with `--from`:
        `mllm-eval data --probe` locks these three, and only locked files are read.
    train, test: names of the splits in the layout. train_rows, test_rows: their numbers of images.
    roots: folders that the paths of a list may be relative to; test_roots: those of the test split if they differ,
        because both splits may contain the same relative path.
    scaled: fields of the protocol with other values on this data. beside: the data pin of the runs in whose table rows
        results on this data are shown.
    """

    layout: Literal["imagenet", "imagenet_parquet", "ade20k", "nyu"]
    source: Literal["local", "hub", "url", "folder"] = "local"
    folder: str | None = None
    repo: str | None = None
    revision: str | None = None
    url: str | None = None
    sha256: str | None = None
    patterns: list[str] = Field(default_factory=list)
    train: str
    test: str
    roots: list[str] = Field(default_factory=lambda: [""])
    test_roots: list[str] | None = None
    train_rows: int | None = None
    test_rows: int | None = None
    classes: int | None = None
    scaled: dict[str, Any] = Field(default_factory=dict)
    beside: str = "hub"

    @model_validator(mode="after")
    def _has_a_place(self) -> ProbeData:
        needed = {"local": "folder", "hub": "repo", "url": "url"}.get(self.source)
        if needed and getattr(self, needed) is None:
            raise ValueError(f"`source: {self.source}` needs `{needed}`")
        return self


class Protocol(Strict):
    """Fields that all probes have.

    Attributes:
        version: raised whenever a change can move a value. column: the classic-vision column of tables that it fills;
            a protocol with this one as its `base` does not fill it.
        metric: `top1` and `miou` in per cent, `rmse` in metres.
        layers: the blocks whose output is read; `even4` is depth * i / 4, rounded half up, for i of 1 to 4.
            norm: whether the encoder's final norm is applied to each of them.
        selection: the images on which the head is selected; `none` if there is only one head. holdout: share of the
            training images that are held out for it.
        dtype: dtype of the encoder on a GPU; on a CPU it is float32. Heads are always float32.
    """

    name: str
    version: int = Field(ge=1)
    kind: str
    title: str
    about: str
    sources: list[str] = Field(default_factory=list)
    column: str | None = None
    metric: Literal["top1", "miou", "rmse"]
    layers: Layers | list[int]
    norm: bool
    selection: Selection = "train_holdout"
    holdout: float = Field(default=0.1, gt=0, lt=1)
    seed: int = 0
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    data: dict[str, ProbeData]

    @property
    def better(self) -> Literal["high", "low"]:
        """Whether high or low values of the metric are better."""
        return "low" if self.metric == "rmse" else "high"

    @property
    def usual_selection(self) -> Selection:
        """The selection that the kind of probe has unless its yaml or the caller names another."""
        usual: Selection = type(self).model_fields["selection"].default
        return usual

    def identity(self) -> dict[str, Any]:
        """The fields that can change a value."""
        return self.model_dump(mode="json", exclude={"title", "about", "sources", "column", "data"})

    @property
    def hash(self) -> str:
        """12 hex digits of `identity`."""
        return short_hash(self.identity())

    def on(self, pin: str) -> Protocol:
        """The protocol with a data set's `scaled` values. Raises UserError for an unknown data set or a wrong value."""
        data = self.pin(pin)
        values = {**self.model_dump(exclude={"data"}), **data.scaled}
        return validate({**values, "data": {pin: data}}, type(self), f"probe {self.name}, `scaled` of {pin}")

    def pin(self, pin: str) -> ProbeData:
        """The data set of a name. Raises UserError with the nearest name."""
        if pin not in self.data:
            raise UserError(f"probe {self.name} has no data {pin!r}.{near(pin, self.data)} "
                            f"Known: {', '.join(self.data)}")  # fmt: skip
        return self.data[pin]


class ImageProbe(Protocol):
    """A probe of whole images with one class each.

    size: edge in pixels; None for the encoder's own. shorter: the shorter side before the centre crop, as a multiple
    of `size`.
    """

    size: int | None = Field(default=None, gt=0)
    shorter: float = Field(default=256 / 224, ge=1)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"


class LinearProbe(ImageProbe):
    """Linear heads trained by SGD, one for each combination of `rates`, `depths` and `patch_mean`.

    rates: learning rates for a batch of `rate_batch`. depths: how many of the last of `layers` a head reads.
    patch_mean: whether a head also reads the mean of the patches. deviation: standard deviation of initial weights.
    crop: range of the share of the area in a random crop; ratio: range of its aspect ratio (width / height).
    """

    kind: Literal["linear"]
    rates: list[float]
    rate_batch: int = 256
    depths: list[int]
    patch_mean: list[bool]
    batch: int = Field(gt=0)
    steps: int = Field(gt=0)
    momentum: float = Field(ge=0, lt=1)
    deviation: float = Field(gt=0)
    crop: Span
    ratio: Span = (3 / 4, 4 / 3)
    flip: float = Field(ge=0, le=1)


class NeighbourProbe(ImageProbe):
    """k nearest training images vote, weighted by exp(cosine / temperature). neighbours: the values of k to try."""

    kind: Literal["knn"]
    neighbours: list[int]
    temperature: float = Field(gt=0)


class LogisticProbe(ImageProbe):
    """Logistic regression with an L2 penalty; log10(C) takes `count` values from `low` to `high`."""

    kind: Literal["logreg"]
    low: float
    high: float
    count: int = Field(gt=0)
    iterations: int = Field(gt=0)
    tolerance: float = Field(gt=0)


class DenseProbe(Protocol):
    """A head on every patch, trained by AdamW.

    batch: crops per step. group: crops per loss, as on one GPU in the published code.
    crop: height and width in pixels. clip: largest norm of the gradient.
    """

    selection: Selection = "none"
    crop: tuple[int, int]
    batch: int = Field(gt=0)
    group: int = Field(gt=0)
    steps: int = Field(gt=0)
    rate: float = Field(gt=0)
    decay: float = Field(ge=0)
    betas: Span = (0.9, 0.999)
    warmup: int = Field(ge=0)
    warmup_from: float = Field(ge=0, le=1)
    clip: float | None = None
    flip: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _groups(self) -> DenseProbe:
        if self.batch % self.group:
            raise ValueError("`batch` is a multiple of `group`")
        return self


class SegmentationProbe(DenseProbe):
    """Batch norm and a linear layer. Test images are read in windows of `crop` every `stride` pixels.

    shorter: shorter side of an image in pixels, for a training image scaled by a factor from `ratio` before the crop.
    most: largest share of a crop that one class may have; `tries`: draws for it. scales: of the test images.
    """

    kind: Literal["segmentation"]
    shorter: int = Field(gt=0)
    ratio: Span
    most: float
    tries: int = 10
    stride: int = Field(gt=0)
    scales: list[float]
    test_flip: bool
    brightness: float = 32
    contrast: Span = (0.5, 1.5)
    saturation: Span = (0.5, 1.5)
    hue: float = 18


class DepthProbe(DenseProbe):
    """Depth as an average of bins, weighted by linearly normalised scores.

    low, high: depths in metres. summary: append the summary to every patch. upsample: factor by which logits are
    upsampled. frame: crop of a training image, (left, top, right, bottom); window: part of a test image where errors
    count, (top, bottom, left, right), both in pixels. unit: values of the depth files per metre. still: first steps,
    whose loss leaves out the variance. cycle: AdamW's first beta goes from the first value to the second and back; the
    third value is the share of the steps at which it turns.
    """

    kind: Literal["depth"]
    summary: bool
    upsample: int = Field(gt=0)
    bins: int = Field(gt=1)
    low: float = Field(gt=0)
    high: float
    unit: float = Field(gt=0)
    frame: tuple[int, int, int, int] | None
    window: tuple[int, int, int, int] | None
    rotate: float
    rotate_share: float
    recolour: float
    gamma: Span
    brightness: Span
    colour: Span
    mean_share: float
    still: int
    cycle: tuple[float, float, float] | None
    rate_to: float


KINDS: dict[str, type[Protocol]] = {
    "linear": LinearProbe,
    "knn": NeighbourProbe,
    "logreg": LogisticProbe,
    "segmentation": SegmentationProbe,
    "depth": DepthProbe,
}


class _Kind(BaseModel):
    """Reads only the field `kind`, which says which class validates the others."""

    model_config = ConfigDict(extra="ignore")
    kind: str = ""


def read_protocol(path: Path) -> Protocol:
    """Read a probe's yaml file. Raises UserError with file and line for any mistake in it.

    A column belongs to the yaml that names it: it is not taken over from a `base` of another name.
    """
    places = folders("probes")
    kind = load(path, _Kind, places).kind
    if kind not in KINDS:
        where = key_lines(path, places).get(("kind",), str(path))
        raise UserError(f"{where}: kind: {kind!r} is no kind of probe.{near(kind, KINDS)} Known: {', '.join(KINDS)}")
    protocol = load(path, KINDS[kind], places)
    written = key_lines(path, places).get(("column",), "").rpartition(":")[0]
    if written and Path(written).stem != path.stem:
        return protocol.model_copy(update={"column": None})
    return protocol


def load_protocol(name: str) -> Protocol:
    """Load a probe by name or by the path of a yaml file. Raises UserError with the nearest known names."""
    return load_named("probes", name, read_protocol)
