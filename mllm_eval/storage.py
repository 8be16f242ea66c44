"""Files that are whole or absent: atomic writes, checksums, and where things live."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mllm_eval import disk
from mllm_eval.disk import saving
from mllm_eval.errors import UserError

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parent
# Where adapters/, benchmarks/ and configs/ are: at the top of a checkout, and inside the package once it is installed.
SHIPPED = PACKAGE if (PACKAGE / "configs").is_dir() else PACKAGE.parent
# How the name ends of a file that is being written, and how many bytes are written at once.
TEMPORARY = ".tmp"
PIECE = 2**16


def write_atomic(path: Path, data: str | bytes | Iterable[bytes]) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part.

    Of pieces each is written as it comes; if one can't be had, the old content stays.
    Raises NotWritten, which names the file and a mend, where the system refuses.
    """
    payload = data.encode("utf-8") if isinstance(data, str) else data
    with replacing(path) as file:
        file.writelines([payload] if isinstance(payload, bytes) else payload)


@contextmanager
def replacing(path: Path) -> Iterator[io.BufferedIOBase]:
    """A file to write to that takes the place of `path` behind the `with` block, or leaves no trace if that raises.

    Raises NotWritten, which names the file and a mend, where the system refuses.
    """
    path = Path(path)
    with saving(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY)
        try:
            with io.BufferedWriter(disk.Through(handle), PIECE) as file:
                yield file
                file.flush()
                disk.sync(handle)
            # mkstemp makes the file private; give it the mode an ordinary open() would have given.
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)
            disk.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def write_summed(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write a file as `write_atomic` does, with its checksum beside it, which `read_summed` and `as_written` go by.

    While the file is replaced there is no checksum: a crash in between leaves a file that is not compared.
    """
    note, digest = disk.sum_note(path), hashlib.sha256()
    with saving(note):
        note.unlink(missing_ok=True)
    write_atomic(path, disk.counted_lines([data] if isinstance(data, bytes) else data, digest))
    write_atomic(note, digest.hexdigest() + "\n")


def hold_to_sum(path: Path, mend: str) -> None:
    """Raise UserError, with the mend, where a file's bytes are not those that were written."""
    try:
        same = disk.as_written(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {mend}") from None
    if not same:
        raise UserError(f"{path}: its bytes are not those that were written (checksum); {mend}")


def remove_temporary(folder: Path) -> None:
    """Remove what killed processes have left of files that were being written; nobody else may be writing there."""
    for path in folder.rglob(f".*{TEMPORARY}"):
        with suppress(OSError):
            path.unlink()


def write_json(path: Path, obj: Any) -> None:
    """Write `obj` as indented JSON, atomically. NaN is refused: it is not JSON."""
    write_atomic(path, json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing, it is not JSON (names the file and the line), or names a field twice.
    """
    try:
        return parse_json(_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not valid JSON ({error.msg})") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def parse_json(text: str | bytes, fields_once: bool = True) -> Any:
    """What a text of JSON says.

    fields_once: a field that an object names twice is an error, too. Raises ValueError for whatever is wrong (of
    which `json.JSONDecodeError` is one), values that are nested deeper than Python goes among it.
    """
    try:
        return json.loads(text, object_pairs_hook=unique_fields if fields_once else None)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None


def unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; `object_pairs_hook` of `json.loads`, which by itself keeps the last of two fields of one name.

    Raises ValueError naming the field that is there twice.
    """
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"field {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return fields


def iter_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file; blank lines are skipped.

    Raises:
        UserError: "file:line: ..." for a missing file, a line that is not JSON, names a field twice, or is no object.
    """
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = parse_json(line)
                except (json.JSONDecodeError, UnicodeDecodeError) as error:
                    reason = error.msg if isinstance(error, json.JSONDecodeError) else "not UTF-8"
                    raise UserError(f"{path}:{number}: not valid JSON ({reason})") from None
                except ValueError as error:
                    mend = "; keep one of them" if "twice" in str(error) else ""
                    raise UserError(f"{path}:{number}: {error}{mend}") from None
                if not isinstance(row, dict):
                    raise UserError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
                yield row
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All objects of a JSON-lines file. Raises UserError as `iter_jsonl` does."""
    return list(iter_jsonl(path))


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one compact JSON object a line, atomically."""
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n" for row in rows)
    write_atomic(path, (line.encode() for line in lines))


def _text(path: Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None


def read_text(path: Path) -> str:
    """The text of a UTF-8 file. Raises UserError if it is missing or not UTF-8."""
    return _text(path)


def within(folder: Path, name: str) -> Path:
    """The file in a folder that a lock, an index, a list or a row names.

    Raises ValueError for a name that no file below the folder can have: empty, absolute, or with a step upwards.
    """
    if not name or "\0" in name or name.startswith(("/", "~")) or ".." in Path(name).parts:
        raise ValueError(f"{name[:80]!r} leaves the folder that it is to be in; name a file below it")
    return folder / name


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of bytes, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits. Raises UserError if it can't be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def known_sha256(path: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits; a large file is read once, and again when it was touched.

    What was read is noted beside the file, in `.<name>.sha256`, with the file's size and time of change; a folder
    that can't be written has no note. Raises UserError if the file can't be read.
    """
    note = path.with_name(f".{path.name}.sha256")
    try:
        status = path.stat()
        state = f"{status.st_size} {status.st_mtime_ns}"
        noted = note.read_text(encoding="utf-8").strip() if note.is_file() else ""
    except (OSError, UnicodeDecodeError):
        return sha256_file(path)
    if noted.startswith(f"{state} ") and len(noted) == len(state) + 65:
        return noted[-64:]
    digest = sha256_file(path)
    with suppress(OSError):
        write_atomic(note, f"{state} {digest}\n")
    return digest


def sha256_tree(folder: Path, keep: Callable[[Path], bool] = lambda _: True) -> str:
    """SHA-256 over the relative names and contents of a folder's files, 64 hex digits.

    Hidden files are left out; `keep` may leave out more. Raises UserError if the folder is missing.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    digest = hashlib.sha256()
    files = (path for path in folder.rglob("*") if path.is_file() and keep(path))
    for path in sorted(files, key=lambda path: path.relative_to(folder).as_posix()):
        name = path.relative_to(folder)
        if any(part.startswith(".") for part in name.parts):
            continue
        digest.update(f"{name.as_posix()}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()


def in_checkout() -> bool:
    """Whether the working directory is a checkout of this project."""
    return Path("pyproject.toml").is_file() and Path("mllm_eval/__init__.py").is_file()


def data_home() -> Path:
    """Where data lives: $MLLM_EVAL_DATA, else ./data in a checkout, else ~/.cache/mllm_eval."""
    if given := os.environ.get("MLLM_EVAL_DATA"):
        return Path(given).expanduser()
    return Path("data").absolute() if in_checkout() else Path.home() / ".cache" / "mllm_eval"


def results_home() -> Path:
    """Where runs, features and tables live: $MLLM_EVAL_RESULTS, else ./results."""
    return Path(os.environ.get("MLLM_EVAL_RESULTS") or "results").expanduser().absolute()


def locate(ref: str, base: Path | None = None) -> Path:
    """Resolve a reference of a yaml file to a path.

    `package:x` is x of what comes with the package (`package:configs/llms`), `data:x` is x under `data_home()`;
    anything else is a path, relative to the folder `base` (default: the working directory). Whether it exists is not
    checked.
    """
    scheme, _, rest = ref.partition(":")
    if scheme == "package":
        shipped = Path(rest).parts[:1] in (("adapters",), ("benchmarks",), ("configs",))
        return (SHIPPED if shipped else PACKAGE) / rest
    if scheme == "data":
        return data_home() / rest
    return (base or Path.cwd()) / Path(ref).expanduser()
