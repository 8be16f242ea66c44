"""What `import mllm_eval` offers, and the commands `eval` and `compare` call: encoders, evaluations, comparisons.

Every function here leaves the process as it was (`mllm_eval.environment.settings`). Nothing but `encoder` imports torch
before something is computed.
"""

from __future__ import annotations
