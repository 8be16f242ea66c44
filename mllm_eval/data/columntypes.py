"""Names column types, and checks a table's columns against those that a benchmark expects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from mllm_eval.errors import UserError, near

if TYPE_CHECKING:
    import pyarrow as pa

_PLAIN = {"double": "float64", "float": "float32", "large_string": "string", "string_view": "string"}


def type_name(kind: pa.DataType) -> str:
    """Name of an arrow type: `string`, `float64`, `list<string>`, `image`, `struct<a: int64>`."""
    import pyarrow.types as t

    if t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind):
        return f"list<{type_name(kind.value_type)}>"
    if t.is_dictionary(kind):
        return type_name(kind.value_type)
    if t.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        if {field.name for field in fields} == {"bytes", "path"}:
            return "image"
        return f"struct<{', '.join(f'{field.name}: {type_name(field.type)}' for field in fields)}>"
    return _PLAIN.get(str(kind), str(kind))


def matches(present: str, wanted: str) -> bool:
    """Whether a type is the wanted one, or one of several wanted ones (`int64|string`).

    The bare names `list` and `struct` match any list or struct. A column of nulls matches every type.
    """
    if "|" in wanted:
        return any(matches(present, one.strip()) for one in wanted.split("|"))
    return present in (wanted, "null") or (wanted in ("list", "struct") and present.startswith(f"{wanted}<"))


def named_columns(names: Iterable[str], aliases: Mapping[str, str], source: str) -> dict[str, str]:
    """Map renamed columns to upstream names. Raises UserError if two columns have one name, also after renaming."""
    named: dict[str, str] = {}
    for own in names:
        name = aliases.get(own, own)
        if name in named:
            spelt = "" if own == named[name] else f" (as '{named[name]}' and '{own}')"
            raise UserError(f"{source}: column '{name}' is there twice{spelt}; keep one of them")
        named[name] = own
    return named


def check_columns(present: Mapping[str, str], wanted: Mapping[str, str], source: str) -> None:
    """Raise UserError for the first column that is missing or has another type. Additional columns are allowed."""
    for column, kind in wanted.items():
        if column not in present:
            raise UserError(f"{source}: column '{column}' is missing.{near(column, present)} Is it another release?")
        if not matches(_sorted(present[column]), _sorted(kind)):
            raise UserError(f"{source}: column '{column}' is {present[column]}, expected {kind}")


def _sorted(kind: str) -> str:
    # The order of a struct's fields does not matter. Only flat structs are ever written out in full.
    if kind.startswith("struct<") and kind.count("<") == 1:
        return f"struct<{', '.join(sorted(kind[7:-1].split(', ')))}>"
    return kind
