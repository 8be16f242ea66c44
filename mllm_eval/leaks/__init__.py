"""Leaks: pictures of a benchmark, and its questions, that stand in what a model was trained on.

`check` is the whole of it; `findings` reads what it has found, without torch.
"""
