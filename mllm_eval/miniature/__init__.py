"""The miniature: a world of small pictures, tiny weights pretrained on it, and 16 small benchmarks.

Nothing outside imports its insides; the rest of the project sees only the files that it makes.
"""

from __future__ import annotations
