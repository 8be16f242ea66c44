#!/usr/bin/env bash
# A LLaMA and a LLaVA that transformers 5.23.0 saves load in 4.57.6 with exit code 0, and compute something else. The
# config has `rope_parameters` alone, of which 4.57.6 makes rotary base 10,000 without a word, whatever base was saved. A
# CLIP tower's tensors are written as `vision_tower.embeddings...`; 4.57.6 looks for `vision_tower.vision_model...`, finds
# none of them, and fills the whole tower at random: a warning in the log is all that says so. The tokenizer's class,
# TokenizersBackend, is an error there.
# Seen with torch 2.13.0: "base 500000.0 read as 10000.0" and "39 of 39 tower tensors missing".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.23.0" "safetensors>=0.5" "requests==2.32.5"
"$folder/venv/bin/pip" install --quiet --no-deps --target "$folder/older" "transformers==4.57.6" "huggingface_hub==0.36.0" "tokenizers==0.22.1"
cat > "$folder/save.py" <<'EOF'
import sys

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlamaForCausalLM, LlavaConfig, LlavaForConditionalGeneration

torch.manual_seed(0)
text = LlamaConfig(
    vocab_size=40, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
)
LlamaForCausalLM(text).save_pretrained(sys.argv[1] + "/llama")
tower = CLIPVisionConfig(
    hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=7,
    projection_dim=32,
)
config = LlavaConfig(vision_config=tower, text_config=text, image_token_index=39)
LlavaForConditionalGeneration(config).save_pretrained(sys.argv[1] + "/llava")
EOF
cat > "$folder/read.py" <<'EOF'
import sys

import transformers
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

assert transformers.__version__ == "4.57.6"
llama = AutoModelForCausalLM.from_pretrained(sys.argv[1] + "/llama")
print(f"base 500000.0 read as {llama.config.rope_theta}")
llava, report = AutoModelForImageTextToText.from_pretrained(sys.argv[1] + "/llava", output_loading_info=True)
tower = [name for name in llava.state_dict() if "vision_tower" in name]
missing = [name for name in report["missing_keys"] if "vision_tower" in name]
print(f"{len(missing)} of {len(tower)} tower tensors missing")
EOF
"$folder/venv/bin/python" "$folder/save.py" "$folder" >/dev/null 2>&1
found=$(PYTHONPATH="$folder/older" "$folder/venv/bin/python" "$folder/read.py" "$folder" 2>/dev/null)
printf '%s\n' "$found"
[ "$found" = "base 500000.0 read as 10000.0
39 of 39 tower tensors missing" ]
