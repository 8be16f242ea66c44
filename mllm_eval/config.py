"""Read yaml files strictly: errors are reported in one line that names the file, the line and the correction."""

from __future__ import annotations

import copy
import json
import os
import re
import time
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from mllm_eval.errors import UserError, near
from mllm_eval.storage import locate, read_text, sha256_bytes
from mllm_eval.yamlbounds import refuse_unbounded

Where = dict[tuple[str | int, ...], str]
SETTLED = 2 * 10**9
"""Age in nanoseconds from which a file's modification time is trusted to show its next change."""


class Strict(pydantic.BaseModel):
    """Base of every config model: unknown keys are errors, and instances are immutable."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


M = TypeVar("M", bound=pydantic.BaseModel)


if typing.TYPE_CHECKING:
    from yaml import SafeLoader as _Parser
else:
    # The parser in C is ten times as fast, which saves half a second when all benchmarks are read.
    _Parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class StrictLoader(_Parser):
    """SafeLoader that reads `1e-3` as a number (in YAML 1.1 it is a string) and refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key that is no text", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value!r} twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*)(?:\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


# In `background: #ff0000` yaml reads the colour as a comment and would silently drop it.
_COMMENTED_COLOUR = re.compile(r"(?mi)^[ \t]*[\w-]+:[ \t]+(?P<colour>#(?:[0-9a-f]{3}|[0-9a-f]{6}))[ \t]*$")


def load(path: Path, model: type[M], folders: Sequence[Path] = ()) -> M:
    """Read a yaml file, together with the files that its `base:` names, into a model.

    `base: x` names a sibling (`x` or `x.yaml`), a relative path, a file of the package
    (`package:configs/recipes/mini.yaml`), or a file in one of `folders`; they are tried in this order. The file itself
    is not taken as its own base if there is another candidate. The file's values override the base's, mapping by
    mapping; lists are replaced whole.

    Raises:
        UserError: a missing file, invalid yaml, circular bases, an unknown key (with the nearest known one), a wrong
            type or a missing key; names the file and, where possible, the line.
    """
    data, where = _read(Path(path), (), folders)
    return validate(data, model, str(path), where)


def load_chosen(path: Path, choose: Callable[[Mapping[str, Any]], type[M]]) -> M:
    """Read a yaml file into the model that `choose` returns for its content. Raises UserError as `load` does."""
    data, where = _read(Path(path), (), ())
    return validate(data, choose(data), str(path), where)


def load_mapping(data: typing.Mapping[str, Any], model: type[M], source: str, folders: Sequence[Path] = ()) -> M:
    """Validate plain data as `load` does a file's content; `source` names the data in messages.

    Its `base:` is resolved as in a file in the working directory. Raises UserError as `load` does.
    """
    plain = dict(data)
    if (base := plain.pop("base", None)) is None:
        return validate(plain, model, source)
    under, where = _read(_base_path(Path(source), str(base), folders), (), folders)
    # Keys of the data itself have no line in a file.
    kept = {at: line for at, line in where.items() if at[0] not in plain}
    return validate(_lay_over(under, plain), model, source, kept)


def key_lines(path: Path, folders: Sequence[Path] = ()) -> Where:
    """Return the `file:line` of each key of a yaml file and its bases. For `folders` and UserError see `load`."""
    return _read(Path(path), (), folders)[1]


def validate(data: Any, model: type[M], source: str, where: Where | None = None) -> M:
    """Validate plain data by a model. Raises UserError, which begins with `file:line` from `where`, else `source`."""
    try:
        return model.model_validate(data)
    except pydantic.ValidationError as error:
        raise UserError(_explain(error, data, model, source, where or {})) from None


def _read(path: Path, above: tuple[Path, ...], folders: Sequence[Path]) -> tuple[dict[str, Any], Where]:
    if path.resolve() in above:
        raise UserError(f"{path}: its `base:` leads back to itself")
    document = _document(path)
    # Copied, because a model's validators may change it.
    data, where = copy.deepcopy(document.data), document.where
    if (base := data.pop("base", None)) is None:
        return data, where
    under, under_where = _read(_base_path(path, str(base), folders), (*above, path.resolve()), folders)
    return _lay_over(under, data), {**under_where, **where}


@dataclass(frozen=True, slots=True)
class _Document:
    """The content of one yaml file without its bases, and the place of each key."""

    data: dict[str, Any]
    where: Where


@dataclass(frozen=True, slots=True)
class _Kept:
    """A cached document, with the file's inode, size and modification time (ns) when it was read."""

    state: tuple[int, int, int]
    document: _Document


_kept: dict[tuple[Path, Path], _Kept] = {}


def _document(path: Path) -> _Document:
    """Read a yaml file, from the cache if it is unchanged.

    Recently changed files are not cached: file systems' clocks are coarse, so another change might not show.
    """
    try:
        status = path.stat()
    except OSError:
        return _parsed(path)
    state, key = (status.st_ino, status.st_size, status.st_mtime_ns), (path, path.absolute())
    if (known := _kept.get(key)) is not None and known.state == state:
        return known.document
    document = _parsed(path)
    if time.time_ns() - status.st_mtime_ns > SETTLED:
        _kept[key] = _Kept(state, document)
    return document


def _parsed(path: Path) -> _Document:
    text = read_text(path)
    refuse_unbounded(text, path, StrictLoader)
    if (match := _COMMENTED_COLOUR.search(text)) is not None:
        number = text.count("\n", 0, match.start("colour")) + 1
        raise UserError(
            f'{path}:{number}: yaml reads {match["colour"]} as a comment; write "{match["colour"]}" in quotes'
        )
    try:
        loader = StrictLoader(text)
        node = loader.get_single_node()
        data = loader.construct_document(node) if node else {}
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line}: not valid yaml ({error.problem})") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # An impossible date raises an error of Python, not of yaml.
        raise UserError(f"{path}: not valid yaml ({error})") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected `key: value` lines, found {type(data).__name__}")
    where: Where = {}
    if node:
        _note_lines(node, (), str(path), where)
    return _Document(data, where)


def _base_path(path: Path, base: str, folders: Sequence[Path]) -> Path:
    places = [path.parent, *folders]
    candidates = [one for place in places for one in (locate(base, place), locate(f"{base}.yaml", place))]
    # Path.is_file would raise for a name that is longer than the system allows.
    files = [candidate for candidate in candidates if os.path.isfile(candidate)]
    # A user's file may have the same name as its base.
    other = [candidate for candidate in files if candidate.resolve() != path.resolve()]
    if files:
        return (other or files)[0]
    hint = near(base, {one.stem for place in places for one in place.glob("*.yaml") if one != path})
    more = ", nor the name of another" if folders else ""
    raise UserError(f"{path}: base {base!r} is neither a file nor a sibling{more}.{hint}")


def _lay_over(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        old = merged.get(key)
        # {value: x, assumed: source} is a single value: overriding it by a plain one must also drop the source.
        both = isinstance(old, dict) and isinstance(value, dict) and "assumed" not in {*old, *value}
        merged[key] = _lay_over(typing.cast("dict[str, Any]", old), value) if both else value
    return merged


def _note_lines(node: yaml.Node, at: tuple[str | int, ...], file: str, where: Where) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            where[(*at, key.value)] = f"{file}:{key.start_mark.line + 1}"
            _note_lines(value, (*at, key.value), file, where)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            where[(*at, index)] = f"{file}:{value.start_mark.line + 1}"
            _note_lines(value, (*at, index), file, where)


def _explain(
    error: pydantic.ValidationError, data: Any, model: type[pydantic.BaseModel], source: str, where: Where
) -> str:
    problems = error.errors(include_url=False)
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    at = problem["loc"]
    place = next((where[at[:n]] for n in range(len(at), 0, -1) if at[:n] in where), source)
    key = ".".join(str(part) for part in at)
    if problem["type"] == "extra_forbidden":
        known = _keys_at(model, at[:-1])
        message = f"unknown key {key!r}.{near(str(at[-1]), known) or f' Known: {chr(44).join(known)}.'}"
    elif problem["type"] == "missing":
        message = f"key {key!r} is missing"
    else:
        reason = problem["msg"].removeprefix("Value error, ")
        given = "" if isinstance(problem["input"], dict | list) else f", not {problem['input']!r}"
        message = f"{key}: {reason}{given}" if key else reason
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{place}: {message}{more}"


def _keys_at(model: type[pydantic.BaseModel], at: tuple[str | int, ...]) -> list[str]:
    kinds: list[Any] = [model]
    for part in at:
        items: list[Any] = []
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
                field = kind.model_fields.get(str(part))
                items += _plain_types(field.annotation) if field else []
            else:
                items += [k for arg in typing.get_args(kind) for k in _plain_types(arg)]
        kinds = items
    models = [k for k in kinds if isinstance(k, type) and issubclass(k, pydantic.BaseModel)]
    return sorted({name for kind in models for name in kind.model_fields})


def _plain_types(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [kind for arg in typing.get_args(annotation) for kind in _plain_types(arg)]
    return [annotation]


def _plain(obj: Any) -> Any:
    if isinstance(obj, pydantic.BaseModel):
        return obj.model_dump(mode="json")
    if is_dataclass(obj) and not isinstance(obj, type):
        return asdict(obj)
    if isinstance(obj, Path):
        return obj.as_posix()
    if isinstance(obj, set | frozenset):
        return sorted(obj)
    raise TypeError(f"{type(obj).__name__} has no canonical JSON")


def canonical(obj: Any) -> str:
    """Return JSON with sorted keys and without spaces or NaN; models, dataclasses, paths and sets are allowed."""
    return json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain)


def short_hash(obj: Any, n: int = 12) -> str:
    """Return the first `n` hex digits of the SHA-256 of `canonical(obj)`."""
    return sha256_bytes(canonical(obj).encode())[:n]
