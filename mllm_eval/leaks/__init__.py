"""Leaks: images and questions of benchmarks that occur in a model's training data.

`check` runs the search; `findings` reads its results, without torch.
"""
