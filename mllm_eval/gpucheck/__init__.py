"""`mllm-eval check gpu`: tests on a GPU, in minutes, what this project claims about GPUs.

There are eight checks. Each is a module with a function `check` that reports its measurements to a `Session`. The same
code runs on a CPU with tiny shapes (`--dry`), where correctness is judged but speed and memory are only shown. Each
module also has a context manager `planted` that introduces a fault, with which its check must fail.
"""
