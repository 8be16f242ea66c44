"""Atomic file writes, JSON files, checksums, and the locations of data and results."""

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
# The folder of adapters/, benchmarks/ and configs/: the top of a checkout, or the installed package.
SHIPPED = PACKAGE if (PACKAGE / "configs").is_dir() else PACKAGE.parent
# Suffix of temporary files, and bytes per write.
TEMPORARY = ".tmp"
PIECE = 2**16


def write_atomic(path: Path, data: str | bytes | Iterable[bytes]) -> None:
    """Write a file atomically: after a crash, and for readers, it has either the old or the new content.

    If `data` is an iterable that raises an error, the old content is kept. Raises NotWritten, which names the file and
    a correction, where the system can't write.
    """
    payload = data.encode("utf-8") if isinstance(data, str) else data
    with replacing(path) as file:
        file.writelines([payload] if isinstance(payload, bytes) else payload)


@contextmanager
def replacing(path: Path) -> Iterator[io.BufferedIOBase]:
    """Context with a writable file that replaces `path` on exit; if the block raises an error, `path` is unchanged.

    Raises NotWritten, which names the file and a correction, where the system can't write.
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
            # mkstemp makes the file private; open() would give it this mode.
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)
            disk.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def write_summed(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write a file as `write_atomic` does, and its checksum to a second file, for `hold_to_sum` and `disk.as_written`.

    The old checksum is removed first, so that a crash in between leaves a file without a checksum, which is accepted.
    """
    note, digest = disk.sum_note(path), hashlib.sha256()
    with saving(note):
        note.unlink(missing_ok=True)
    write_atomic(path, disk.counted_lines([data] if isinstance(data, bytes) else data, digest))
    write_atomic(note, digest.hexdigest() + "\n")


def hold_to_sum(path: Path, mend: str) -> None:
    """Raise UserError, with the correction `mend`, where a file is unreadable or does not match its checksum."""
    try:
        same = disk.as_written(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {mend}") from None
    if not same:
        raise UserError(f"{path}: its bytes are not those that were written (checksum); {mend}")


def remove_temporary(folder: Path) -> None:
    """Remove temporary files left by killed processes; no other process may be writing in the folder."""
    for path in folder.rglob(f".*{TEMPORARY}"):
        with suppress(OSError):
            path.unlink()


def write_json(path: Path, obj: Any) -> None:
    """Write `obj` as indented JSON, atomically. Raises ValueError for NaN, which is not JSON."""
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
    """Parse JSON.

    fields_once: whether a duplicate field of an object is an error. Raises ValueError for invalid JSON (in part as its
    subclass `json.JSONDecodeError`), and for values nested beyond Python's recursion limit.
    """
    try:
        return json.loads(text, object_pairs_hook=unique_fields if fields_once else None)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None


def unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object's fields as a dictionary; for use as `object_pairs_hook` of `json.loads`.

    Raises ValueError, naming the field, for a duplicate one, of which `json.loads` itself would keep the last.
    """
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"field {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return fields


def iter_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file; blank lines are skipped.

    Raises:
        UserError: a missing file; or, as "file:line: ...", a line that is no JSON object or has a duplicate field.
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
    """Return all objects of a JSON-lines file. Raises UserError as `iter_jsonl` does."""
    return list(iter_jsonl(path))


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one compact JSON object per line, atomically."""
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
    """Return the text of a UTF-8 file. Raises UserError if it is missing or not UTF-8."""
    return _text(path)


def within(folder: Path, name: str) -> Path:
    """Return the path of a file below a folder, for a name from a lock, an index, a list or a row.

    Raises ValueError for a name that could lead out of the folder: empty, absolute, or with `..`.
    """
    if not name or "\0" in name or name.startswith(("/", "~")) or ".." in Path(name).parts:
        raise ValueError(f"{name[:80]!r} leaves the folder that it is to be in; name a file below it")
    return folder / name


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of bytes, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, 64 hex digits. Raises UserError if it can't be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def known_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, 64 hex digits, cached until the file's size or modification time changes.

    The cache is the file `.<name>.sha256` in the same folder; without write permission there is no cache. Raises
    UserError if the file can't be read.
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
    """Return the SHA-256 over relative names and contents of a folder's files, 64 hex digits.

    Hidden files are left out, and so are files for which `keep` is false. Raises UserError if the folder is missing.
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
    """Return the data folder: $MLLM_EVAL_DATA, else ./data in a checkout, else ~/.cache/mllm_eval."""
    if given := os.environ.get("MLLM_EVAL_DATA"):
        return Path(given).expanduser()
    return Path("data").absolute() if in_checkout() else Path.home() / ".cache" / "mllm_eval"


def results_home() -> Path:
    """Return the folder of runs, features and tables: $MLLM_EVAL_RESULTS, else ./results."""
    return Path(os.environ.get("MLLM_EVAL_RESULTS") or "results").expanduser().absolute()


@contextmanager
def results_in(folder: Path) -> Iterator[None]:
    """Set `results_home()` to another folder until the end of the `with` block, for started processes too."""
    before, os.environ["MLLM_EVAL_RESULTS"] = os.environ.get("MLLM_EVAL_RESULTS"), str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MLLM_EVAL_RESULTS"]
        else:
            os.environ["MLLM_EVAL_RESULTS"] = before


def locate(ref: str, base: Path | None = None) -> Path:
    """Resolve a reference of a yaml file to a path.

    `package:x` is a file or folder of the package (`package:configs/llms`), and `data:x` is x under `data_home()`.
    Anything else is a path, relative to the folder `base` (by default the working directory). The path need not exist.
    """
    scheme, _, rest = ref.partition(":")
    if scheme == "package":
        shipped = Path(rest).parts[:1] in (("adapters",), ("benchmarks",), ("configs",))
        return (SHIPPED if shipped else PACKAGE) / rest
    if scheme == "data":
        return data_home() / rest
    return (base or Path.cwd()) / Path(ref).expanduser()
