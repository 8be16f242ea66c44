"""Files that are whole or absent: atomic writes, checksums, locks, and where things live."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

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
# What flock says on a file system that has no locks.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def write_atomic(path: Path, data: str | bytes | Iterable[bytes]) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part.

    Of pieces each is written as it comes; if one can't be had, the old content stays.
    Raises NotWritten, which names the file and a mend, where the system refuses.
    """
    payload = data.encode("utf-8") if isinstance(data, str) else data
    with replacing(path) as file:
        file.writelines([payload] if isinstance(payload, bytes) else payload)


@contextmanager
def replacing(path: Path) -> Iterator[io.BufferedWriter[Any]]:
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
        return json.loads(_text(path), object_pairs_hook=unique_fields)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not valid JSON ({error.msg})") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


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
                    row = json.loads(line, object_pairs_hook=unique_fields)
                except (json.JSONDecodeError, UnicodeDecodeError) as error:
                    reason = error.msg if isinstance(error, json.JSONDecodeError) else "not UTF-8"
                    raise UserError(f"{path}:{number}: not valid JSON ({reason})") from None
                except ValueError as error:
                    raise UserError(f"{path}:{number}: {error}; keep one of them") from None
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


_held: set[IO[bytes]] = set()


def _let_go_of_locks() -> None:
    """In a forked process: locks are its parent's, and end with the parent though this process goes on."""
    while _held:
        _held.pop().close()


os.register_at_fork(after_in_child=_let_go_of_locks)


class FileLock:
    """Hold an exclusive lock on a file while in the `with` block; released by the system if the process dies.

    `waiting` is called once if another process holds the lock, before this one waits for it. On a file system without
    locks a warning says so, and nothing is held.
    """

    def __init__(self, path: Path, waiting: Callable[[], None] | None = None) -> None:
        self.path = Path(path)
        self.waiting = waiting
        self._file: IO[bytes] | None = None

    def __enter__(self) -> FileLock:
        """Raises NotWritten where the lock's file can't be opened."""
        with saving(self.path):
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = open(self.path, "ab")
            except OSError as error:
                # Where nobody can write nothing has to be kept from others: what is there can be looked at.
                if error.errno == errno.EROFS and self.path.parent.is_dir():
                    return self
                raise
            try:
                self._hold(self._file)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    self._file.close()
                    raise
                _say_no_locks(self.path.parent, error)
            _held.add(self._file)
        return self

    def _hold(self, file: IO[bytes]) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if self.waiting:
                self.waiting()
            fcntl.flock(file, fcntl.LOCK_EX)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file:
            _held.discard(self._file)
            self._file.close()
            self._file = None


_unlocked: set[int] = set()


def _say_no_locks(folder: Path, error: OSError) -> None:
    """Once for each file system."""
    device = os.stat(folder).st_dev
    if device not in _unlocked:
        _unlocked.add(device)
        said = "%s: its file system has no locks (%s): let one command at a time work there, or mount it with locks"
        log.warning(said, folder, error.strerror)


@contextmanager
def made_whole(target: Path, whole: str, version: str) -> Iterator[Path | None]:
    """Where to make a folder that appears as `target` behind the `with` block, or None where it is there already.

    It is there where its file `whole` says `version`, which is written last. One process makes it at a time; what an
    interrupted one has left is removed, and never taken for a whole one.
    """
    with FileLock(target.with_name(f".{target.name}.lock")):
        if (target / whole).is_file() and read_text(target / whole).strip() == version:
            yield None
            return
        making = target.with_name(f".{target.name}.tmp")
        shutil.rmtree(making, ignore_errors=True)
        try:
            with saving(target):
                yield making
                write_atomic(making / whole, version + "\n")
                shutil.rmtree(target, ignore_errors=True)
                disk.replace(making, target)
        finally:
            shutil.rmtree(making, ignore_errors=True)


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
