#!/usr/bin/env bash
# torchmetrics' confusion matrix of a mask takes memory in proportion to pixels x classes^2, where torch was asked for
# deterministic algorithms, also with warn_only and also on a CPU, whose own count is deterministic anyway. Its bincount
# then compares every pixel with every cell of the matrix. One mask of 512 x 512 in ADE20K's 150 classes would take
# 512 * 512 * 150^2 numbers of 8 bytes, 47 GB, where 22,500 counts are wanted. The numbers are the same.
# Seen with torch 2.13.0, torchmetrics 1.9.0: for 20,000 pixels in 20 classes, "counted: about 64 million bytes at the most",
# which is 20,000 x 20^2 x 8, against "0 million" without; "equal: True".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "torchmetrics==1.9.0" "numpy>=2"
cat > "$folder/count.py" <<'EOF'
import torch
import torchmetrics
from torch.utils._python_dispatch import TorchDispatchMode
from torchmetrics.functional.classification import multiclass_confusion_matrix

assert (torch.__version__.split("+")[0], torchmetrics.__version__) == ("2.13.0", "1.9.0")
PIXELS, CLASSES = 20_000, 20


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.bytes = max(self.bytes, made.numel() * made.element_size())
        return made


draw = torch.Generator().manual_seed(0)
mask, answer = (torch.randint(0, CLASSES, (PIXELS,), generator=draw) for _ in range(2))
tables = []
for asked in (False, True):
    torch.use_deterministic_algorithms(asked, warn_only=True)
    with Largest() as largest:
        tables.append(multiclass_confusion_matrix(answer, mask, CLASSES, validate_args=False))
    print(f"deterministic: {asked}, counted: about {largest.bytes // 10**6} million bytes at the most")
print("equal:", torch.equal(*tables))
EOF
found=$("$folder/venv/bin/python" "$folder/count.py" 2>/dev/null)
printf '%s\n' "$found"
[ "$found" = "deterministic: False, counted: about 0 million bytes at the most
deterministic: True, counted: about 64 million bytes at the most
equal: True" ]
