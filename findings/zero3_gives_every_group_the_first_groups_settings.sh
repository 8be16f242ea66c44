#!/usr/bin/env bash
# A checkpoint of DeepSpeed's ZeRO-3 with two groups of parameters, other learning rates and weight decays, is converted to
# the universal form, which lets training go on with another number of processes. Loaded, every group has the learning rate
# and the weight decay of the first one; nothing is said. ZeRO-2 with the same lines gives each group its own, and so
# does ZeRO-3's own form. A scheduler sets the learning rates again at its next step, but nobody sets the weight decay:
# a run that goes on with other processes decays biases, norms or adapters that it left alone before, or leaves all alone.
# Seen with torch 2.13.0, deepspeed 0.19.8 on a CPU: the lines that the last command compares with.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "numpy>=2" setuptools wheel
"$folder/venv/bin/pip" install --quiet "deepspeed==0.19.8"
cat > "$folder/groups.py" <<'EOF'
import os
import socket
import subprocess
import sys

import torch

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
os.environ.update(
    RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), DS_ACCELERATOR="cpu"
)
import deepspeed

assert (torch.__version__.split("+")[0], deepspeed.__version__) == ("2.13.0", "0.19.8")
folder, stage = sys.argv[1], int(sys.argv[2])


def engine_and_optimizer(universal):
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 1))
    groups = [
        {"params": model[0].parameters(), "lr": 1e-3, "weight_decay": 0.0},
        {"params": model[1].parameters(), "lr": 5e-4, "weight_decay": 0.1},
    ]
    config = {
        "train_micro_batch_size_per_gpu": 4,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "checkpoint": {"load_universal": universal},
    }
    engine, optimizer, _, _ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(groups), config=config)
    return engine, optimizer


def tell(form, optimizer):
    settings = [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    print(f"ZeRO-{stage}, {form}: {settings}")


engine, optimizer = engine_and_optimizer(False)
engine.backward(engine(torch.randn(4, 8)).pow(2).mean())
engine.step()
tell("saved", optimizer)
engine.save_checkpoint(folder, tag="own")
convert = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
words = ["--input_folder", f"{folder}/own", "--output_folder", f"{folder}/universal"]
subprocess.run([*convert, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
for form in ("own", "universal"):
    engine, optimizer = engine_and_optimizer(form == "universal")
    engine.load_checkpoint(folder, tag=form)
    tell(f"loaded from the {form} form", optimizer)
EOF
export TORCH_EXTENSIONS_DIR="$folder/extensions" PATH="$folder/venv/bin:$PATH"
found=$(for stage in 2 3; do python "$folder/groups.py" "$folder/zero$stage" "$stage" 2>/dev/null | grep '^ZeRO'; done)
printf '%s\n' "$found"
[ "$found" = "ZeRO-2, saved: [(0.001, 0.0), (0.0005, 0.1)]
ZeRO-2, loaded from the own form: [(0.001, 0.0), (0.0005, 0.1)]
ZeRO-2, loaded from the universal form: [(0.001, 0.0), (0.0005, 0.1)]
ZeRO-3, saved: [(0.001, 0.0), (0.0005, 0.1)]
ZeRO-3, loaded from the own form: [(0.001, 0.0), (0.0005, 0.1)]
ZeRO-3, loaded from the universal form: [(0.001, 0.0), (0.001, 0.0)]" ]
