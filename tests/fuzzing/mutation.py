"""Changes of files, as strategies of hypothesis: of bytes, of what a document says, of one line of many."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import yaml
from hypothesis import strategies as st

Strategy = st.SearchStrategy


class Input(NamedTuple):
    """A changed file. touched: numbers of the rows that may differ from the sound file's; None where all may."""

    data: bytes
    touched: frozenset[int] | None = None


NUMBERS = (0, 1, 2, 3, 4, 7, 8, 16, 32, 63, 64, 100, 127, 128, 255, 256, 4096, 32767, 65535, 65536, 2**31 - 1, 2**31,
           2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)  # fmt: skip
PIECES = (b"", b"\0", b"\xff", b"\n", b"\r\n", b'"', b"'", b"\\", b"{", b"}", b"[", b"]", b",", b":", b" ", b"\t", b"-",
          b"&a", b"*a", b"!!x", b"#", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xe2\x80\xae", b"\x1b[2J", b"null", b"NaN",
          b"1e999", b"-1", b"../", b"/", b"\xc3", b"IHDR", b"PAR1")  # fmt: skip
HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 255, 2**31, 2**63, -(2**63), 2**70, 0.5, -0.0, 1e-300, 1e308, float("inf"),
    float("nan"), "", " ", "0", "-1", "nan", "null", "a" * 300, "x" * 20_000, "é", "\u202e\u2066", "\ud800", "\0",
    "\x1b]0;t\x07\x1b[31m", "line\nline\r\nline", "a\tb", "<b>&amp;", "[/bold]", "{0}", "{a.b}", "%s", "../../up", "/",
    "/etc/hostname", "~", ".", "data:..", "package:..", "https://example.org/x", "=1+1", "#ffffff", "float16", "mini",
    [], {}, [None], [[]], [{}], {"": None}, {"value": 1}, [1, 2, 3], ["a", "b"], [1e308] * 3, {"a": {"b": {"c": []}}},
    {"assumed": "x"}, [0] * 500,
)  # fmt: skip


def _nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


_place = st.integers(0, 2**20)
_edit = st.one_of(
    st.tuples(st.just("set"), _place, st.sampled_from((0, 1, 32, 34, 44, 58, 91, 127, 128, 255)) | st.integers(0, 255)),
    st.tuples(st.just("flip"), _place, st.integers(0, 7)),
    st.tuples(st.just("number"), _place, st.tuples(st.sampled_from(NUMBERS), st.sampled_from((1, 2, 4, 8)),
                                                   st.sampled_from(("little", "big")))),
    st.tuples(st.just("insert"), _place, st.sampled_from(PIECES) | st.binary(max_size=12)),
    st.tuples(st.just("delete"), _place, st.integers(1, 64)),
    st.tuples(st.just("double"), _place, st.integers(1, 200)),
    st.tuples(st.just("move"), _place, st.tuples(_place, st.integers(1, 64))),
    st.tuples(st.just("cut"), _place, st.just(0)),
)  # fmt: skip


def edited(data: bytes, edits: Sequence[tuple[str, int, Any]]) -> bytes:
    """Bytes after some edits, each at a place of what the ones before have made."""
    made = bytearray(data)
    for what, place, value in edits:
        at = place % max(1, len(made))
        if what == "set" and made:
            made[at] = value
        elif what == "flip" and made:
            made[at] ^= 1 << value
        elif what == "number":
            number, size, order = value
            made[at : at + size] = (number % 256**size).to_bytes(size, order)
        elif what == "insert":
            made[at:at] = value
        elif what == "delete":
            del made[at : at + value]
        elif what == "double":
            made[at:at] = made[at : at + value]
        elif what == "move":
            to, size = value
            piece = bytes(made[at : at + size])
            del made[at : at + size]
            to %= max(1, len(made))
            made[to:to] = piece
        elif what == "cut":
            del made[at:]
    return bytes(made)


def changed_bytes(sound: bytes, most: int = 5) -> Strategy[bytes]:
    """A file of bytes with one to `most` edits."""
    return st.lists(_edit, min_size=1, max_size=most).map(lambda edits: edited(sound, edits))


# The steps down a document say which child is gone to, the change what becomes of it.
_change = st.tuples(
    st.lists(st.integers(0, 40), min_size=1, max_size=6),
    st.one_of(
        st.tuples(st.just("replace"), st.integers(0, len(HOSTILE) - 1)),
        st.tuples(st.just("remove"), st.just(0)),
        st.tuples(st.just("add"), st.integers(0, len(HOSTILE) - 1)),
        st.tuples(st.just("swap"), st.integers(0, 40)),
        st.tuples(st.just("deepen"), st.sampled_from((1, 3, 60, 2000))),
    ),
)
Change = tuple[list[int], tuple[str, int]]


def changed_value(sound: Any, changes: Sequence[Change]) -> Any:
    """A document of mappings, lists and scalars after some changes of what lies in it."""
    top = [copy.deepcopy(sound)]
    for steps, (what, number) in changes:
        holder: Any = top
        key: Any = 0
        for step in steps:
            inner = holder[key]
            if isinstance(inner, dict) and inner:
                holder, key = inner, list(inner)[step % len(inner)]
            elif isinstance(inner, list) and inner:
                holder, key = inner, step % len(inner)
            else:
                break
        if what == "replace":
            holder[key] = copy.deepcopy(HOSTILE[number])
        elif what == "deepen":
            holder[key] = [holder[key], _nested(number)]
        elif what == "remove" and holder is not top:
            del holder[key]
        elif what == "add" and isinstance(holder, dict):
            holder[str(HOSTILE[number])[:40]] = holder[key]
        elif what == "add" and holder is not top:
            holder.insert(key, copy.deepcopy(HOSTILE[number]))
        elif what == "swap" and holder is not top:
            others = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            other = others[number % len(others)]
            holder[key], holder[other] = holder[other], holder[key]
    return top[0]


_changes = st.lists(_change, min_size=1, max_size=3)


def json_text(value: Any) -> bytes:
    """JSON of anything that `changed_value` makes; deep nesting is written without recursion."""
    try:
        return json.dumps(value).encode()
    except RecursionError:
        return _deep(value)


def _deep(value: Any) -> bytes:
    parts: list[bytes] = []
    left: list[Any] = [value]
    while left:
        one = left.pop()
        if isinstance(one, bytes):
            parts.append(one)
        elif isinstance(one, dict):
            inner: list[Any] = [b"{"]
            for number, (key, held) in enumerate(one.items()):
                inner += [b"," if number else b"", json.dumps(key).encode() + b":", held]
            left += [*inner, b"}"][::-1]
        elif isinstance(one, list):
            inner = [b"["]
            for number, held in enumerate(one):
                inner += [b"," if number else b"", held]
            left += [*inner, b"]"][::-1]
        else:
            parts.append(json.dumps(one).encode())
    return b"".join(parts)


def changed_json(sound: Any) -> Strategy[bytes]:
    """A JSON file with changes of what it says, or of its bytes."""
    text = json.dumps(sound, indent=1).encode()
    return _changes.map(lambda made: json_text(changed_value(sound, made))) | changed_bytes(text)


def _yaml_text(value: Any) -> bytes:
    try:
        # A surrogate can't be written; yaml escapes it only where non-ASCII is not allowed.
        return yaml.safe_dump(value, sort_keys=False).encode("utf-8", "replace")
    except (RecursionError, yaml.YAMLError):
        return json_text(value)


def changed_yaml(sound: bytes) -> Strategy[bytes]:
    """A yaml file with changes of what it says, or of its bytes."""
    value = yaml.safe_load(sound)
    return _changes.map(lambda made: _yaml_text(changed_value(value, made))) | changed_bytes(sound)


def changed_lines(rows: Sequence[Any], more: Callable[[Any], Strategy[bytes]] = changed_json) -> Strategy[Input]:
    """A file of JSON lines of which one is changed, doubled, moved to the end or removed; now and then all of it."""
    lines = [json.dumps(row).encode() for row in rows]

    def at(number: int) -> Strategy[Input]:
        def put(new: bytes) -> Input:
            held = [*lines[:number], new.replace(b"\n", b" ").replace(b"\r", b" "), *lines[number + 1 :]]
            return Input(b"\n".join(held) + b"\n", frozenset([number]))

        return more(rows[number]).map(put)

    def order(pair: tuple[str, int]) -> Input:
        what, number = pair
        held = list(lines)
        one = held.pop(number)
        held += {"last": [one], "twice": [one, one], "gone": []}[what]
        return Input(b"\n".join(held) + b"\n", frozenset([number]))

    places = st.integers(0, len(lines) - 1)
    whole = changed_bytes(b"\n".join(lines) + b"\n").map(Input)
    return st.one_of(
        places.flatmap(at), places.flatmap(at), whole,
        st.tuples(st.sampled_from(("last", "twice", "gone")), places).map(order),
    )  # fmt: skip


def changed_cells(head: Sequence[str], rows: Sequence[Sequence[str]], mark: str) -> Strategy[Input]:
    """A table of texts, of which one cell is changed; now and then bytes of the file."""

    def written(table: Sequence[Sequence[str]]) -> bytes:
        def cell(text: str) -> str:
            return '"' + text.replace('"', '""') + '"' if any(sign in text for sign in f'{mark}"\n\r') else text

        return "".join(mark.join(map(cell, row)) + "\n" for row in table).encode("utf-8", "surrogatepass")

    def put(change: tuple[int, int, int]) -> Input:
        row, column, number = change
        held = [list(one) for one in rows]
        held[row % len(rows)][column % len(head)] = str(HOSTILE[number])
        return Input(written([head, *held]), frozenset([row % len(rows)]))

    places = st.integers(0, 1000)
    cells = st.tuples(places, places, st.integers(0, len(HOSTILE) - 1)).map(put)
    return cells | changed_bytes(written([head, *rows])).map(Input)
