"""What a probe's yaml says: which features it reads, how its head is trained and chosen, on which data.

Each kind of head is a model of its own (`KINDS`); the yaml's `kind` names it. Where two data sets want other numbers
(steps, sizes), each says so under `scaled`: the code is one and the same.
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

    source: `local` is a folder of the data home (`folder`, as `storage.locate` reads it), read as it is; `hub` is a
        data set of the hub (`repo`, `revision`), `url` an archive, `folder` what somebody brings with `--from`: these
        three are locked by `mllm-eval data --probe`, and nothing but what is locked is read.
    train, test: the splits, as the layout names them. train_rows, test_rows: how many images they have.
    roots: the folders at which the paths of a list may begin; test_roots: those of the test split, where they differ.
        Frames of both splits may have the same path, so that one list of folders for both can lead to the wrong ones.
    scaled: fields of the protocol that have other values on this data. beside: the data pin of the runs in whose rows a
        result on this data stands.
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
    """What every probe has.

    Attributes:
        version: raised whenever a change can move a value. column: of the classic vision of tables, where it fills one.
        metric: `top1` and `miou` are in per cent, `rmse` in metres.
        layers: the blocks whose output is read; `even4` is round(depth * i / 4) for i of 1 to 4, so that the last block
            is always among them. norm: whether the encoder's final norm is applied to each of them.
        selection: how the head is chosen, and `none` where there is one alone. holdout: share of the training images
            that are kept for it.
        dtype: what the encoder computes in on a GPU; on a CPU it is float32. Heads are float32 everywhere.
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
        """Which end of the metric is the better one."""
        return "low" if self.metric == "rmse" else "high"

    def identity(self) -> dict[str, Any]:
        """The fields that can change a value; titles and words can't."""
        return self.model_dump(mode="json", exclude={"title", "about", "sources", "column", "data"})

    @property
    def hash(self) -> str:
        """12 hex digits of `identity`."""
        return short_hash(self.identity())

    def on(self, pin: str) -> Protocol:
        """The protocol as it is on a data set. Raises UserError for one it does not have, or a wrong value of its."""
        data = self.pin(pin)
        values = {**self.model_dump(exclude={"data"}), **data.scaled}
        return validate({**values, "data": {pin: data}}, type(self), f"probe {self.name}, `scaled` of {pin}")

    def pin(self, pin: str) -> ProbeData:
        """The data set of a name; UserError with the nearest otherwise."""
        if pin not in self.data:
            raise UserError(f"probe {self.name} has no data {pin!r}.{near(pin, self.data)} "
                            f"Known: {', '.join(self.data)}")  # fmt: skip
        return self.data[pin]


class ImageProbe(Protocol):
    """Whole images, of which each has one class.

    size: edge in pixels; None is the encoder's own. shorter: the shorter side before the centre is cut out, as a
    multiple of it.
    """

    size: int | None = Field(default=None, gt=0)
    shorter: float = Field(default=256 / 224, ge=1)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"


class LinearProbe(ImageProbe):
    """Linear heads by SGD, one for each rate, number of blocks, and with or without the mean patch.

    rates: for a batch of `rate_batch`. depths: how many of the last of `layers` a head reads.
    crop: share of the area that a random crop takes; ratio: its width by its height.
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
    """Votes of the nearest training images, weighted by exp(cosine / temperature); `neighbours` are tried."""

    kind: Literal["knn"]
    neighbours: list[int]
    temperature: float = Field(gt=0)


class LogisticProbe(ImageProbe):
    """Logistic regression with an L2 penalty; C is 10 to the power of `count` numbers from `low` to `high`."""

    kind: Literal["logreg"]
    low: float
    high: float
    count: int = Field(gt=0)
    iterations: int = Field(gt=0)
    tolerance: float = Field(gt=0)


class DenseProbe(Protocol):
    """A head on every patch, by AdamW.

    batch: crops of a step; group: of how many of them one loss is, as on one GPU of those who published it.
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
    """Batch norm and a linear layer; windows of `crop` each `stride` pixels.

    shorter: the shorter side before a training crop is cut, scaled by a factor from `ratio`, and of a test image.
    most: the share that one class may have of a crop, for `tries` draws. scales: of the test images.
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
    """Bins of depth, read out with the linear norm.

    summary: whether the summary stands beside every patch. upsample: of the grid, before the read-out.
    frame: of a training image, left, top, right, bottom; window: of a test image, where errors are counted, top,
    bottom, left, right. unit: of the depth files, values in a metre. still: steps in which the loss has no variance.
    cycle: the first beta goes from the first value to the second and back, the second after this share of the steps.
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
    """The one field that says which model the others belong to."""

    model_config = ConfigDict(extra="ignore")
    kind: str = ""


def read_protocol(path: Path) -> Protocol:
    """The protocol of a yaml file. Raises UserError, with the file and the line, for whatever is wrong in it."""
    places = folders("probes")
    kind = load(path, _Kind, places).kind
    if kind not in KINDS:
        where = key_lines(path, places).get(("kind",), str(path))
        raise UserError(f"{where}: kind: {kind!r} is no kind of probe.{near(kind, KINDS)} Known: {', '.join(KINDS)}")
    return load(path, KINDS[kind], places)


def load_protocol(name: str) -> Protocol:
    """The probe of a name or of a path to a yaml file. Raises UserError with near names."""
    return load_named("probes", name, read_protocol)
