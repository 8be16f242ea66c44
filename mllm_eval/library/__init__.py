"""The functions that `import mllm_eval` offers: encoders, evaluations and comparisons. `eval` and `compare` use them.

Every function restores the process's global settings when it returns (`mllm_eval.environment.settings`). Only `frozen`
imports torch before something is computed.
"""

from __future__ import annotations
