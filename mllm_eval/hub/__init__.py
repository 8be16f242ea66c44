"""Files of a hub repository or a web address, at one revision: fetched, checked, and locked.

Only `fetch` and `fetch_url` touch the network. What they fetched is written down in a lock (the resolved
commit, the files with their sizes and SHA-256), and everything later asks `locked_folder` for the files: it
never fetches, and refuses files that are not those of the lock.
"""

from __future__ import annotations

from mllm_eval.hub.lock import Lock, LockedFile, Part, Source, lock_path, locked_folder, read_lock

__all__ = ["Lock", "LockedFile", "Part", "Source", "lock_path", "locked_folder", "read_lock"]
