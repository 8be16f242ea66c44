"""Where the checkout is, and what of it tests read."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
# Answers whose scores by the original code are known, and prompts as the original writes them.
GOLDEN = TESTS / "golden"
# The recipe of a run that trains in a second.
TINY_RECIPE = str(TESTS / "recipes" / "tiny.yaml")
