"""Corpora of pictures: shards that filter judges and writes anew, and what leaks looks through."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from made_corpus import Brightness, decisions, png, sample, work
from tiny_models import make_recipe

from fuzzing.mutation import HOSTILE, Input, Strategy, changed_bytes, changed_lines
from fuzzing.running import Changed, Subject
from mllm_eval import disk
from mllm_eval.errors import UserError
from mllm_eval.filtering import corpusrun, filter_corpus, open_corpus
from mllm_eval.leaks.corpora import Folder
from mllm_eval.leaks.hashing import Hashed, hash_corpus
from mllm_eval.leaks.questions import Questions
from mllm_eval.leaks.trainingsets import TrainingSets
from mllm_eval.progress import unheard

Members = list[tuple[str, bytes]]
TEXTS = tuple(one for one in HOSTILE if isinstance(one, str))
GREYS = (5, 60, 110, 150, 200, 250)
MEMBERS: Members = [one for at, grey in enumerate(GREYS) for one in sample(f"k{at}", grey, bright=grey >= 128)]
_place = st.integers(0, 2**16)


def tarred(members: Members, packed: str = "", kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """A tar; of another `kind` (a link, a pipe) is its last member."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode=f"w:{packed}", errors="surrogateescape") as archive:
        for at, (name, data) in enumerate(members):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if at + 1 == len(members) and kind != tarfile.REGTYPE:
                info.type, info.size, info.linkname = kind, 0, link
            archive.addfile(info, io.BytesIO(data[: info.size]))
    return held.getvalue()


def packing(data: bytes) -> str:
    """How a file begins that is packed, as its name says it."""
    return {b"\x1f\x8b": ".gz", b"BZ": ".bz2", b"\xfd7": ".xz"}.get(data[:2], "")


def changed_tar(members: Members) -> Strategy[Input]:
    """Bytes of a tar, plain or packed; names, pictures and fields of members; members that are links and devices."""
    kinds = (
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.FIFOTYPE,
        tarfile.CHRTYPE,
        tarfile.DIRTYPE,
        tarfile.GNUTYPE_SPARSE,
    )

    def member(change: tuple[int, str, int]) -> Input:
        place, what, wanted = change
        held = list(members)
        at = place % len(held)
        name, data = held[at]
        text = TEXTS[wanted % len(TEXTS)].replace("\0", "")[:200].encode("utf-8", "replace").decode()
        said = json.dumps({"bright": HOSTILE[wanted % len(HOSTILE)]}).encode()
        held[at] = {"name": (text + name[-4:], data), "empty": (name, b""), "text": (name, text.encode()),
                    "turned": (name, data[::-1]), "json": (f"{name[:2]}.json", said)}[what]  # fmt: skip
        return Input(tarred(held), frozenset([int(name[1])]))

    def odd(change: tuple[int, int]) -> Input:
        kind, link = kinds[change[0] % len(kinds)], ("/etc/hostname", "../../x", "k0.png", "")[change[1] % 4]
        return Input(tarred([*members, ("k9.png", b"")], kind=kind, link=link), frozenset())

    def order(change: tuple[int, int]) -> Input:
        held = list(members)
        held.insert(change[1] % len(held), held.pop(change[0] % len(held)))
        return Input(tarred(held))

    what = ("name", "empty", "text", "turned", "json")

    return st.one_of(
        changed_bytes(tarred(members)).map(Input), changed_bytes(tarred(members, "gz")).map(Input),
        changed_bytes(tarred(members, "bz2")).map(Input), changed_bytes(tarred(members, "xz")).map(Input),
        st.tuples(_place, st.sampled_from(what), _place).map(member), st.tuples(_place, _place).map(odd),
        st.tuples(_place, _place).map(order),
    )  # fmt: skip


ROWS: list[dict[str, Any]] = [
    {"key": f"k{at}", "image": {"bytes": png(grey), "path": None}, "caption": "a picture", "bright": grey >= 128}
    for at, grey in enumerate(GREYS)
]
KINDS = {"key": pa.string(), "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
         "caption": pa.string(), "bright": pa.bool_()}  # fmt: skip


def table(rows: Sequence[dict[str, Any]], free: bool = False) -> bytes:
    held = io.BytesIO()
    clean = [{name: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
              for name, value in row.items()} for row in rows]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(clean, None if free else pa.schema(KINDS)), held, row_group_size=3)
    return held.getvalue()


def changed_table() -> Strategy[Input]:
    """Bytes of a parquet file; a cell; a column of another type, another name, or gone."""

    def cell(change: tuple[int, int, int]) -> Input:
        place, column, wanted = change
        rows = [dict(row) for row in ROWS]
        row = rows[place % len(rows)]
        row[list(row)[column % len(row)]] = HOSTILE[wanted % len(HOSTILE)]
        try:
            return Input(table(rows), frozenset([place % len(rows)]))
        except (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError):
            name = list(row)[column % len(row)]
            return Input(table([{**one, name: str(HOSTILE[wanted % len(HOSTILE)])} for one in ROWS], free=True))

    def column(change: tuple[int, str, int]) -> Input:
        place, what, wanted = change
        name = list(KINDS)[place % len(KINDS)]
        text = TEXTS[wanted % len(TEXTS)].encode("utf-8", "replace").decode() or "_"
        values: dict[str, Callable[[Any], Any]] = {
            "number": lambda _: wanted, "bytes": lambda _: text.encode(), "list": lambda one: [one, one],
            "map": lambda one: {"bytes": one, "x": {"bytes": text}}, "none": lambda _: None,
        }  # fmt: skip
        rows = [dict(row) for row in ROWS]
        for row in rows:
            held = row.pop(name)
            if what == "named":
                row[text] = held
            elif what in values:
                row[name] = values[what](held if name != "image" else held["bytes"])
        try:
            return Input(table(rows, free=True))
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            return Input(table(ROWS), frozenset())

    def picture(change: tuple[int, bytes]) -> Input:
        rows = [dict(row) for row in ROWS]
        rows[change[0] % len(rows)]["image"] = {"bytes": change[1], "path": None}
        return Input(table(rows), frozenset([change[0] % len(rows)]))

    whole = changed_bytes(table(ROWS)).map(Input)
    what = ("number", "bytes", "list", "map", "none", "named", "gone")
    return st.one_of(
        whole, whole, st.tuples(_place, _place, _place).map(cell),
        st.tuples(_place, st.sampled_from(what), _place).map(column),
        st.tuples(_place, changed_bytes(png(90))).map(picture),
    )  # fmt: skip


def changed_folder() -> Strategy[Any]:
    """What lies in a folder of images: a file's bytes, its name, a link, a folder of its name, a pipe's absence."""
    return st.one_of(
        st.tuples(st.just("bytes"), _place, changed_bytes(png(90))),
        st.tuples(st.sampled_from(("name", "link", "loop", "folder", "gone", "outside")), _place, st.just(b"")),
        st.tuples(st.just("json"), _place, changed_bytes(b'{"bright": true, "caption": "x"}')),
    )  # fmt: skip


def put_in(folder: Path, change: tuple[str, int, bytes]) -> None:
    """Make such a folder. Names that the disk refuses are left out."""
    what, place, data = change
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, held in MEMBERS:
        (folder / name).write_bytes(held)
    path = folder / MEMBERS[place % len(MEMBERS)][0]
    if what == "bytes":
        path.write_bytes(data)
    elif what == "json":
        path.with_suffix(".json").write_bytes(data)
    else:
        path.unlink()
        text = TEXTS[place % len(TEXTS)].replace("/", "_").replace("\0", "_")[:60]
        try:
            if what == "name":
                (folder / f"{text}.png").write_bytes(png(90))
            elif what == "link":
                path.symlink_to(folder / "nowhere.png")
            elif what == "loop":
                path.symlink_to(path)
            elif what == "outside":
                path.symlink_to("/etc/hostname")
            elif what == "folder":
                path.mkdir()
        except (OSError, UnicodeError):
            pass


class Filter(Subject):
    """A corpus that is filtered by brightness, with the kept pictures written as shards: every key that was not touched
    has its decision, and what is written is read as a corpus again."""

    name = "0.tar"
    ROW: ClassVar[dict[str, tuple[str, Any]]] = {
        f"k{at}": ("kept" if grey >= 128 else "dropped", grey >= 128) for at, grey in enumerate(GREYS)
    }

    def __init__(self, home: Path) -> None:
        # The record of the machine asks git and each package, and fsync the disk: a second a corpus. Neither reads it.
        corpusrun.describe = dict
        disk.sync = lambda file: None
        self.place, self.out = home / "in", home / "out"
        self.inputs = self.changed()
        assert self.read(Input(self.sound(), frozenset())) == "read"

    def changed(self) -> Strategy[Any]:
        return changed_tar(MEMBERS)

    def sound(self) -> bytes:
        return tarred(MEMBERS)

    def put(self, given: Any) -> frozenset[int] | None:
        """Write the input; the numbers of the keys that it may change."""
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()
        name = self.name + packing(given.data)
        (self.place / name).write_bytes(given.data)
        touched: frozenset[int] | None = given.touched
        return touched

    def read(self, given: Any) -> str:
        touched = self.put(given)
        shutil.rmtree(self.out, ignore_errors=True)
        made = filter_corpus(work(self.place, self.out, Brightness, label="bright", shards=True))
        rows = decisions(self.out)
        if touched is not None:
            found = {str(row["key"]): (row["decision"], row["label"]) for row in rows}
            for number, (key, sound) in enumerate(self.ROW.items()):
                if number not in touched and found.get(key) != sound:
                    raise Changed(f"{key}: {found.get(key)}")
        kept = sum(row["decision"] == "kept" for row in rows)
        if kept != made.tally.kept or len(rows) != made.tally.judged + made.tally.failed:
            raise Changed(f"{len(rows)} rows, {made.tally.kept} counted as kept")
        if any(self.out.rglob("shards/**/*")) and kept:
            again = filter_corpus(work(self.out / "shards", self.out.with_name("again"), Brightness))
            shutil.rmtree(self.out.with_name("again"))
            if again.tally.kept != kept or again.tally.dropped:
                raise Changed(f"{kept} pictures were kept and {again.tally.kept} written")
        open_corpus(self.place)
        return "counted" if made.tally.failed or made.tally.faults else "read"


class FilterParquet(Filter):
    name = "0.parquet"

    def changed(self) -> Strategy[Any]:
        return changed_table()

    def sound(self) -> bytes:
        return table(ROWS)


class FilterFolder(Filter):
    def changed(self) -> Strategy[Any]:
        return changed_folder()

    def put(self, given: Any) -> frozenset[int] | None:
        change = ("json", 0, b'{"bright": false}') if isinstance(given, Input) else given
        put_in(self.place, change)
        return frozenset([int(MEMBERS[change[1] % len(MEMBERS)][0][1])])


def seen(hashed: Hashed) -> list[int]:
    return hashed.hashes.tolist()


class Leaks(Subject):
    """A corpus that leaks looks through: it is hashed, and images that were not touched have their hashes."""

    def __init__(self, home: Path) -> None:
        self.place, self.out = home / "in", home / "out"
        self.inputs = self.changed()
        self.put(self.sound())
        self.hashes = set(seen(self.hashed()))
        assert len(self.hashes) > 1

    def changed(self) -> Strategy[Any]:
        return changed_tar(PICTURES)

    def sound(self) -> Any:
        return Input(tarred(PICTURES), frozenset())

    def put(self, given: Any) -> frozenset[int] | None:
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()
        name = "0.parquet" if isinstance(self, LeaksParquet) else "0.tar" + packing(given.data)
        (self.place / name).write_bytes(given.data)
        touched: frozenset[int] | None = given.touched
        return touched

    def hashed(self) -> Hashed:
        shutil.rmtree(self.out, ignore_errors=True)
        corpus = Folder(self.place)
        found = hash_corpus(corpus, self.out, unheard)
        for piece in range(corpus.pieces):
            try:
                for one in corpus.images(piece):
                    str(one.name + one.where).encode("utf-8")
            except UserError:
                continue
        return found

    def read(self, given: Any) -> str:
        touched = self.put(given)
        found = self.hashed()
        if touched is not None and len(set(seen(found)) & self.hashes) < len(self.hashes) - len(touched):
            raise Changed(f"{len(found.hashes)} of {len(self.hashes)} images")
        return "counted" if found.broken else "read"


def striped(number: int) -> bytes:
    """A picture that no other hashes like."""
    from PIL import Image

    image = Image.new("L", (32, 32))
    image.putdata([255 if (x * (number + 2) + y * (number + 1)) // 9 % 2 else 20 for y in range(32) for x in range(32)])
    held = io.BytesIO()
    image.convert("RGB").save(held, "PNG")
    return held.getvalue()


PICTURES: Members = [(f"k{at}.png", striped(at)) for at in range(6)]


class LeaksParquet(Leaks):
    def changed(self) -> Strategy[Any]:
        return changed_table()

    def sound(self) -> Any:
        return Input(table([{**row, "image": {"bytes": striped(at), "path": None}} for at, row in enumerate(ROWS)]))

    def read(self, given: Any) -> str:
        # The pictures of the changed tables are of one grey each: they hash alike.
        return super().read(Input(given.data))


class LeaksFolder(Leaks):
    def changed(self) -> Strategy[Any]:
        return changed_folder()

    def sound(self) -> Any:
        return None

    def put(self, given: Any) -> frozenset[int] | None:
        if given is not None:
            put_in(self.place, given)
            return None
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()
        for name, data in PICTURES:
            (self.place / name).write_bytes(data)
        return frozenset()


class LeaksRows(Subject):
    """Training rows that leaks reads for images and questions: a question that stands in a row that was not touched is
    found."""

    def __init__(self, home: Path) -> None:
        self.path, self.out = home / "rows.jsonl", home / "out"
        images = home / "images"
        images.mkdir()
        self.rows = []
        for at in range(5):
            (images / f"{at}.png").write_bytes(striped(at))
            talk = [{"from": "human", "value": f"<image>\nHow many grains are on beach {at}?"},
                    {"from": "gpt", "value": str(at)}]  # fmt: skip
            self.rows.append({"id": str(at), "image": f"{at}.png", "conversations": talk})
        self.asked = Questions([f"How many grains are on beach {at}?" for at in range(5)])
        self.recipe = make_recipe(self.path, images)
        self.inputs = changed_lines(self.rows)

    def read(self, given: Input) -> str:
        self.path.write_bytes(given.data)
        shutil.rmtree(self.out, ignore_errors=True)
        sets = TrainingSets(self.recipe)
        read = sets.read(self.out, unheard)
        stands = sets.stands(self.asked, self.out / "questions", unheard)
        hashed = hash_corpus(sets, self.out / "hashes", unheard)
        if given.touched is not None:
            found = {self.asked.texts[number] for number in stands["question"].tolist()}
            for at in set(range(5)) - given.touched:
                if f"how many grains are on beach {at}" not in found:
                    raise Changed(f"the question of row {at}")
        return "counted" if read.broken or hashed.broken else "read"


SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    "filter tar": Filter, "filter parquet": FilterParquet, "filter folder": FilterFolder, "leaks tar": Leaks,
    "leaks parquet": LeaksParquet, "leaks folder": LeaksFolder, "leaks rows": LeaksRows,
}  # fmt: skip
