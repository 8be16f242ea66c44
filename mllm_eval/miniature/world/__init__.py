"""The miniature's world: small pictures, what is true of them in words, and questions about them.

Invariant: a picture is a pure function of (seed, index, kind); no clock, no system font, no global random state.
"""

from __future__ import annotations

from mllm_eval.miniature.world.kinds import KINDS, draw
from mllm_eval.miniature.world.picture import SIZE, Picture, Question

__all__ = ["KINDS", "SIZE", "Picture", "Question", "draw"]
