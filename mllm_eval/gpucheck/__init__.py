"""`mllm-eval check gpu`: what this project claims of a GPU, held against one in minutes.

Eight checks, each a module with one function `check`, which tells a `Session` what it measured. The same code runs on a
CPU at tiny shapes (`--dry`): what is right or wrong is judged there too, what is fast or large is only shown. Every
check brings a fault of its own (`planted`), with which it must fail; a check that cannot fail says nothing.
"""
