"""A frozen vision encoder's yaml: weights, preprocessing, and facts that are checked against the weights."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from mllm_eval.catalog.architecture import FORMS, Architecture, Form, parameters
from mllm_eval.catalog.families import NAMES, code_of, module_of_family
from mllm_eval.catalog.weights import Weights
from mllm_eval.config import Strict
from mllm_eval.errors import UserError, near

Triple = tuple[float, float, float]
Mode = Literal["pad", "squash", "crop"]
Interpolation = Literal["bicubic", "bilinear"]
# Fields that belong to one mode and are dropped when a variant changes the mode.
OF_A_MODE = ("resize", "fill", "recrop")


class Recrop(Strict):
    """A second step after padding and scaling: scale the square to `resize`, then crop its centre."""

    resize: int = Field(gt=0)
    interpolation: Interpolation = "bicubic"


class Preprocessing(Strict):
    """How an image becomes `size` x `size` pixels; then (x - mean) / std.

    Attributes:
        mode: `pad` to a square and scale; `squash` to a square without keeping the aspect ratio; or scale the short
            side and `crop` the centre.
        resize: short side in pixels before the crop; None for size * 256 / 224.
        fill: colour of the padding, each channel from 0 to 1; None for the mean.
        recrop: after padding and scaling, scale again and crop the centre.
    """

    mode: Mode
    size: int = Field(gt=0)
    mean: Triple
    std: Triple
    interpolation: Interpolation = "bicubic"
    resize: int | None = Field(default=None, gt=0, exclude_if=lambda value: value is None)
    fill: Triple | None = Field(default=None, exclude_if=lambda value: value is None)
    recrop: Recrop | None = Field(default=None, exclude_if=lambda value: value is None)

    @model_validator(mode="after")
    def _goes_with_the_mode(self) -> Preprocessing:
        if self.resize is not None and (self.mode != "crop" or self.resize < self.size):
            raise ValueError("`resize` goes with `mode: crop` and is at least `size`")
        if self.mode != "pad" and (self.fill is not None or self.recrop is not None):
            raise ValueError("`fill` and `recrop` go with `mode: pad`")
        if self.fill is not None and not all(0 <= value <= 1 for value in self.fill):
            raise ValueError("`fill` is a colour from 0 to 1")
        if self.recrop is not None and self.recrop.resize < self.size:
            raise ValueError("`resize` of `recrop` is at least `size`")
        return self


class PreprocessingChange(Strict):
    """The fields that a preprocessing variant changes; None leaves a field unchanged."""

    mode: Mode | None = None
    size: int | None = Field(default=None, gt=0)
    mean: Triple | None = None
    std: Triple | None = None
    interpolation: Interpolation | None = None
    resize: int | None = Field(default=None, gt=0)
    fill: Triple | None = None
    recrop: Recrop | None = None


def _written(value: Any) -> Any:
    """Convert a number to text, since yaml reads `samples_seen: 0` as a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return str(int(value)) if isinstance(value, int) or value.is_integer() else str(value)


Text = Annotated[str, BeforeValidator(_written)]


class Facts(Strict):
    """Facts about the pretraining. Tables and plots show them; nothing is computed from them.

    `published`: rows of published tables that were measured with these weights, as `Table 6: Web-DINO ViT-1B`.
    """

    pretraining_data: Text
    samples_seen: Text
    supervision: Literal["self", "language", "none", "labels"]
    published: tuple[str, ...] = Field(default=(), exclude_if=lambda value: not value)


class Encoder(Strict):
    """A frozen vision backbone with its preprocessing: one yaml in configs/encoders.

    Attributes:
        family: the module that loads it (`mllm_eval.adapters`), or a user's own file (`mllm_eval.catalog.families`).
        code: SHA-256 of a user's own family file, computed if absent; None for the shipped families. It is part of the
            hash of runs and features, and a file with another SHA-256 is refused.
        patch: edge of a patch in pixels; `width`: features per patch; `depth`: transformer blocks;
            `params`: weights of the backbone. All four are checked against the loaded weights.
        cells: features along one edge of the grid, for an encoder without patches, or whose grid is not size // patch;
            `patch` is then its stride, if it has one.
        architecture: the rest of its shape. With it, `params` is computed and may be left out, and a checkpoint of the
            original code, which has no config, can be loaded.
        feature_layer: block whose output is used; -1 is the last, -2 the one before it.
        norm: whether the final norm is applied to that output.
        summary: the vector for the whole image, used in classic vision and alignment.
        variants: other preprocessings by name; `NAME@squash` is the encoder with the variant `squash`.
    """

    name: str
    family: str
    weights: Weights
    code: str | None = Field(default=None, pattern="^[0-9a-f]{64}$", exclude_if=lambda value: value is None)
    patch: int | None = Field(default=None, gt=0)
    cells: int | None = Field(default=None, gt=0, exclude_if=lambda value: value is None)
    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    params: int = Field(default=0, ge=0)
    # Newer fields are left out of dumps while unset, so that hashes of older runs do not change.
    architecture: Architecture | None = Field(default=None, exclude_if=lambda value: value is None)
    feature_layer: int = -1
    norm: bool = True
    summary: Literal["cls", "mean", "pooled"] = "cls"
    preprocessing: Preprocessing
    variants: dict[str, PreprocessingChange] = Field(default_factory=dict, exclude=True)
    facts: Facts

    @model_validator(mode="after")
    def _find_code(self) -> Encoder:
        # A saved encoder names the code it was made with. Its results can be read even if that code is missing.
        if self.code is None:
            # Validators may set fields of the frozen model.
            object.__setattr__(self, "code", code_of(self.family))
        elif self.family in NAMES:
            raise ValueError(f"`code` belongs to a family of one's own; {self.family} is shipped")
        if self.family in NAMES and (self.patch is None or self.cells is not None):
            raise ValueError(f"family {self.family} cuts patches: give `patch`, and no `cells`")
        if self.patch is None and self.cells is None:
            raise ValueError("give `patch`, the edge of a patch or the stride in pixels, or `cells`")
        return self

    def _form(self) -> Form | None:
        """The form of the family. A user's own family file is imported only if `params` must be computed from it."""
        if self.code is None or self.architecture is None or self.params:
            return FORMS.get(self.family)
        return getattr(getattr(module_of_family(self.family, self.code, self.weights), "Family", None), "form", None)

    @model_validator(mode="after")
    def _name_the_weights(self) -> Encoder:
        form, weights = FORMS.get(self.family), self.weights
        if form is not None and form.key is not None and weights.path is not None and weights.key is None:
            object.__setattr__(self, "weights", weights.model_copy(update={"key": form.key}))
        return self

    @model_validator(mode="after")
    def _compute_params(self) -> Encoder:
        form = self._form()
        if self.architecture is None or form is None or (self.patch is None and self.architecture.stem is None):
            if self.params == 0:
                asked = "give `params`, or the `architecture` they are computed from"
                if self.code is not None:
                    asked += " (with `stem` where there is no `patch`) and, in the file of the family, its `form`"
                raise ValueError(f"{asked}; with `params: 1`, `mllm-eval check` names the weights' number")
            return self
        if self.architecture.ffn not in form.ffns:
            raise ValueError(f"family {self.family} has no `ffn: {self.architecture.ffn}`")
        bias = self.architecture.qkv_bias
        if bias is not None and bias not in form.qkv_biases:
            raise ValueError(f"family {self.family} has no `qkv_bias: {str(bias).lower()}`")
        cells = self.native_grid if self.cells is not None else None
        computed = parameters(form, self.architecture, self.patch or 0, self.width, self.depth, cells)
        if self.params not in (0, computed):
            raise ValueError(f"params: {self.params} contradicts the architecture, which has {computed}")
        object.__setattr__(self, "params", computed)
        return self

    @property
    def grid(self) -> int:
        """Patches, or cells, along one edge, rounded down (384 / 14 is 27)."""
        if self.cells is not None:
            return self.cells
        assert self.patch is not None
        return self.preprocessing.size // self.patch

    @property
    def native_grid(self) -> int:
        """Patches along one edge that the position embeddings were made for; `grid` if `architecture` is absent."""
        if self.architecture is None:
            return self.grid
        if self.cells is not None:
            return self.cells * self.architecture.native // self.preprocessing.size
        assert self.patch is not None
        return self.architecture.native // self.patch

    def identity(self) -> dict[str, Any]:
        """The fields that can change a result. `params` and `facts` cannot, and `weights` have their own digest."""
        return self.model_dump(mode="json", exclude={"weights", "params", "facts"})

    def variant(self, name: str) -> Encoder:
        """Return this encoder with the preprocessing of one of its `variants`, named `NAME@variant`.

        Raises:
            UserError: an unknown variant, or a changed preprocessing that contradicts itself.
        """
        if name not in self.variants:
            known = f" Known: {', '.join(self.variants)}." if self.variants else ""
            raise UserError(f"encoder {self.name} has no variant {name!r}.{near(name, self.variants)}{known}")
        return self._changed(f"{self.name}@{name}", self.variants[name].model_dump(exclude_none=True), name)

    def squared(self, mode: Mode) -> Encoder:
        """Return this encoder, with the same name, with another `mode` to make images square.

        If a variant has the mode's name, its interpolation and its fields of this mode are used as well, because they
        are those of the encoder's own processor. Raises UserError if the result contradicts itself.
        """
        changes: dict[str, Any] = {"mode": mode}
        if mode in self.variants:
            own = self.variants[mode].model_dump(exclude_none=True)
            changes |= {key: own[key] for key in ("interpolation", *OF_A_MODE) if key in own}
        return self._changed(self.name, changes, mode)

    def _changed(self, name: str, changes: dict[str, Any], variant: str) -> Encoder:
        before = self.preprocessing.model_dump()
        if changes.get("mode", before["mode"]) != before["mode"]:
            before = {key: value for key, value in before.items() if key not in OF_A_MODE}
        try:
            changed = Preprocessing.model_validate({**before, **changes})
        except ValueError as problem:
            first = str(problem).splitlines()[2].strip()
            raise UserError(f"encoder {self.name}, variant {variant!r}: {first}") from None
        return self.model_copy(update={"name": name, "preprocessing": changed, "variants": {}})
