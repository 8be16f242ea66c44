#!/usr/bin/env bash
# transformers returns a tuple `hidden_states`, the embeddings and what each layer gives. One would guess that its last item
# means the same for every architecture. It has the model's final norm in LLaMA, Qwen3 and GPT-2, and lacks it in SigLIP,
# DINOv2, DINOv3, ViT, MAE and I-JEPA, where it differs from `last_hidden_state`; all other items lack it everywhere. In CLIP
# and BEiT the two are equal since `last_hidden_state` has no final norm there. Code that compares layers of an LLM with
# layers of a vision tower by one index, or takes "the last layer" of several towers, compares a normed layer with others
# that are not; LLaVA's code, which reads `hidden_states`, never sees a tower's final norm.
# Seen with torch 2.13.0, transformers 5.23.0 on a CPU: the lines that the last command compares with.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "numpy>=2"
"$folder/venv/bin/pip" install --quiet "transformers==5.23.0"
cat > "$folder/last.py" <<'EOF'
import torch
import transformers

assert (torch.__version__.split("+")[0], transformers.__version__) == ("2.13.0", "5.23.0")
small = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
text = dict(**small, num_key_value_heads=2, head_dim=16, vocab_size=50, bos_token_id=0, eos_token_id=1)
picture = dict(**small, image_size=32, patch_size=8)
gpt2 = dict(n_embd=32, n_layer=2, n_head=2, vocab_size=50, bos_token_id=0, eos_token_id=1)
MODELS = {
    "LlamaModel": text, "Qwen3Model": text, "GPT2Model": gpt2,
    "SiglipVisionModel": picture, "Dinov2Model": picture, "DINOv3ViTModel": picture, "ViTModel": picture,
    "ViTMAEModel": picture, "IJepaModel": picture, "CLIPVisionModel": picture, "BeitModel": picture,
}
# The module of each that norms last, where there is one.
NORMS = ("norm", "ln_f", "post_layernorm", "layernorm")
ids, pixels = torch.arange(5)[None], torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
for name, config in MODELS.items():
    torch.manual_seed(0)
    model = getattr(transformers, name)
    model = model(model.config_class(**config)).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    inputs = {"input_ids": ids} if config in (text, gpt2) else {"pixel_values": pixels}
    with torch.no_grad():
        given = model(**inputs, output_hidden_states=True)
    last, out = given.hidden_states[-1], given.last_hidden_state
    modules = dict(model.named_modules())
    norm = next((modules[at] for at in modules if at.rpartition(".")[2] in NORMS and at.count(".") < 2), None)
    with torch.no_grad():
        unnormed = norm is not None and torch.allclose(norm(last), out, atol=1e-5)
    print(name, "equal" if torch.equal(last, out) else "its norm gives last_hidden_state" if unnormed else "another")
EOF
"$folder/venv/bin/python" "$folder/last.py" 2> /dev/null > "$folder/seen"
cat "$folder/seen"
diff "$folder/seen" - <<'EOF'
LlamaModel equal
Qwen3Model equal
GPT2Model equal
SiglipVisionModel its norm gives last_hidden_state
Dinov2Model its norm gives last_hidden_state
DINOv3ViTModel its norm gives last_hidden_state
ViTModel its norm gives last_hidden_state
ViTMAEModel its norm gives last_hidden_state
IJepaModel its norm gives last_hidden_state
CLIPVisionModel equal
BeitModel equal
EOF
