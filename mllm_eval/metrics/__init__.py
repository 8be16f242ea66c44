"""What scorers share: reading an answer, summing scores, and the form in which `evaluate` loads them.

Nothing here imports more than Python itself, so that `evaluate.load("benchmarks/chartqa")` works where this package is
installed without torch.
"""
