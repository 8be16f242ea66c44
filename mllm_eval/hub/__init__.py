"""Downloads files of a hub repository or a URL at one revision, and checks and locks them.

Only `mllm_eval.hub.fetch` downloads. A lock records the result: the resolved commit, and the files with sizes and
SHA-256. All other code gets the files from `locked_folder`, which never downloads, and refuses files that differ from
the lock.
"""

from __future__ import annotations

from mllm_eval.hub.lock import Lock, LockedFile, LockedPart, Source, lock_path, locked_folder, read_lock

__all__ = ["Lock", "LockedFile", "LockedPart", "Source", "lock_path", "locked_folder", "read_lock"]
