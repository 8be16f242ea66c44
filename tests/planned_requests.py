"""Requests and limits of any shape, for what plans batches."""

from __future__ import annotations

from hypothesis import strategies as st

from mllm_eval.generate.batching import Lengths, Limits

# Tokens of the prefixes that requests share; 0 is none.
PREFIX_TOKENS = (0, 9, 9, 9, 9, 10, 14)
SHAPES = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 12), st.sampled_from([1, 5, 20])), max_size=25)
REQUESTS = SHAPES.map(lambda shapes: [Lengths(n, one, PREFIX_TOKENS[one], own, longest)
                                      for n, (one, own, longest) in enumerate(shapes)])  # fmt: skip
LIMITS = st.builds(Limits, st.integers(1, 400), st.integers(1, 9), st.integers(1, 90), st.integers(0, 40))
