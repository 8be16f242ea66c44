#!/usr/bin/env bash
# A GGUF file holds a tokenizer's words and merges, and of the rule that cuts a text before merging only a name,
# `tokenizer.ggml.pre`. transformers knows some of the names; for any other it cuts as GPT-2 does, and warns of nothing.
# `smollm` (SmolLM2's files) and `starcoder` mean a text that is first split digit by digit: read by transformers, a number whose
# pieces are words is one token, where the same words under `qwen2`, which it knows and which splits digits as well, give
# four. So the same file speaks other tokens in llama.cpp than in transformers.
# Seen with transformers 5.23.0, gguf 0.19.0: the lines that the last command compares with.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "transformers==5.23.0" "gguf==0.19.0" "torch==2.13.0" "numpy>=2"
cat > "$folder/cut.py" <<'PY'
import os
import sys

import gguf
import numpy as np
import transformers
from tokenizers import pre_tokenizers

tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "20", "24", "2024", "<end>"]
for name in ("gpt-2", "llama-bpe", "qwen2", "smollm", "starcoder"):
    path = os.path.join(sys.argv[1], f"{name}.gguf")
    file = gguf.GGUFWriter(path, "llama")
    file.add_context_length(64)
    file.add_embedding_length(8)
    file.add_block_count(1)
    file.add_feed_forward_length(16)
    file.add_head_count(2)
    file.add_head_count_kv(2)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_vocab_size(len(tokens))
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre(name)
    file.add_token_list(tokens)
    file.add_token_types([1] * (len(tokens) - 1) + [3])
    file.add_token_merges(["2 0", "2 4", "20 24"])
    file.add_bos_token_id(len(tokens) - 1)
    file.add_eos_token_id(len(tokens) - 1)
    file.add_tensor("token_embd.weight", np.zeros((len(tokens), 8), np.float32))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    read = transformers.AutoTokenizer.from_pretrained(sys.argv[1], gguf_file=os.path.basename(path))
    print(name, read.convert_ids_to_tokens(read("2024", add_special_tokens=False)["input_ids"]))
PY
seen=$(HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/cut.py" "$folder" 2>"$folder/warned")
printf '%s\n' "$seen"
! grep -iE "pre.?tokeni|smollm|starcoder" "$folder/warned"
[ "$seen" = "gpt-2 ['2024']
llama-bpe ['20', '2', '4']
qwen2 ['2', '0', '2', '4']
smollm ['2024']
starcoder ['2024']" ]
