#!/usr/bin/env bash
# V-JEPA 2 has rotary positions and no table of them, so it takes frames of any size, and its published weights are used at
# several. transformers' class works out the row and the column of a patch from `crop_size` of the config, not from the frames:
# given frames of twice the side, it counts a row of patches as two rows of half the length, and a frame as four, and warns of
# nothing. No weight hangs on `crop_size`, so one state dict loads into both configs, and the same frames give features
# that differ by a fifth of their length here.
# Who evaluates weights made for 256 pixels at 384 has to set `crop_size` to 384, which is no weight and looks like a fact
# of preprocessing.
# Seen with transformers 5.23.0, torch 2.13.0: the lines that the last command compares with.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "transformers==5.23.0" "torch==2.13.0" "numpy>=2"
cat > "$folder/rows.py" <<'PY'
import torch
from transformers import VJEPA2Config, VJEPA2Model

sizes = dict(patch_size=16, frames_per_clip=2, tubelet_size=2, hidden_size=96, num_hidden_layers=4, num_attention_heads=4,
             pred_hidden_size=48, pred_num_hidden_layers=1, pred_num_attention_heads=4)
torch.manual_seed(0)
made_for = {size: VJEPA2Model(VJEPA2Config(crop_size=size, **sizes)).eval() for size in (64, 128)}
print("weights that hang on crop_size:", made_for[64].state_dict().keys() ^ made_for[128].state_dict().keys() or "none")
with torch.no_grad():
    for weight in made_for[64].parameters():
        if weight.dim() > 1:
            # A fresh model hardly attends.
            weight.normal_(0, 0.15)
made_for[128].load_state_dict(made_for[64].state_dict())
for size in (64, 128):
    frames = torch.randn(1, 2, 3, size, size)
    with torch.no_grad():
        one, other = (model(frames, skip_predictor=True).last_hidden_state for model in made_for.values())
    apart = ((one - other).norm(dim=-1) / other.norm(dim=-1)).mean().item()
    print(f"frames of {size}: {one.shape[1]} patches, crop_size 64 against 128:", "other" if apart > 0.01 else "equal")
    print(apart, file=__import__("sys").stderr)
PY
seen=$(HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/rows.py" 2>"$folder/said")
printf '%s\n' "$seen"
tail -3 "$folder/said"
[ "$seen" = "weights that hang on crop_size: none
frames of 64: 16 patches, crop_size 64 against 128: other
frames of 128: 64 patches, crop_size 64 against 128: other" ]
