#!/usr/bin/env bash
# A GenerationConfig that is given to `generate` does not stand for itself: what it leaves unset is taken from the model's
# own generation_config. In transformers 5.23.0 unset means None, and a stated repetition_penalty of 1.0 holds. In 4.57.6
# unset means "equal to the default": a stated 1.0 is taken for unset as well, and the model's penalty of 1.9 goes on in a
# call that says do_sample=False and repetition_penalty=1.0. Two evaluations with the same call differ by a file beside the
# weights, and by the version.
# Seen with torch 2.13.0: 5.23.0 "left out: the model's, stated: the call's"; 4.57.6 "left out: the model's, stated: the
# model's".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.23.0" "safetensors>=0.5" "requests==2.32.5"
"$folder/venv/bin/pip" install --quiet --no-deps --target "$folder/older" "transformers==4.57.6" "huggingface_hub==0.36.0" "tokenizers==0.22.1"
cat > "$folder/ask.py" <<'EOF'
import torch
import transformers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
model = LlamaForCausalLM(LlamaConfig(vocab_size=40, num_key_value_heads=2, **shape)).eval()
prompt = torch.tensor([[5, 6, 7]])


def answer(**stated):
    call = GenerationConfig(do_sample=False, max_new_tokens=24, pad_token_id=0, **stated)
    return model.generate(prompt, generation_config=call)[0].tolist()


greedy = answer()
model.generation_config = GenerationConfig(repetition_penalty=1.9)
penalised = answer()
assert penalised != greedy, "a call that leaves the penalty out is greedy: this has changed"
stated = answer(repetition_penalty=1.0)
assert stated in (greedy, penalised)
whose = "the call's" if stated == greedy else "the model's"
print(f"{transformers.__version__} left out: the model's, stated: {whose}")
EOF
newer=$("$folder/venv/bin/python" "$folder/ask.py" 2>/dev/null)
older=$(PYTHONPATH="$folder/older" "$folder/venv/bin/python" "$folder/ask.py" 2>/dev/null)
printf '%s\n%s\n' "$newer" "$older"
[ "$newer" = "5.23.0 left out: the model's, stated: the call's" ]
[ "$older" = "4.57.6 left out: the model's, stated: the model's" ]
