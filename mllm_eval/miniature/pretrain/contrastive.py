"""mini-clip: images against captions.

Two contrastive losses of equal weight: CLIP's on the class token and the mean of the caption's words (Radford et al.
2021, arXiv:2103.00020, figure 3), and FILIP's late interaction between every patch and every word (Yao et al. 2021,
arXiv:2111.07783, section 3.1), which gives single patches a meaning in words.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import torch
from torch import nn
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModel, PreTrainedTokenizerFast

from mllm_eval.miniature.pretrain.corpus import shuffled_caption
from mllm_eval.miniature.pretrain.images import pictures, pixels
from mllm_eval.miniature.pretrain.loop import Schedule, fit
from mllm_eval.miniature.world import SIZE

BATCH, GROUP, WIDTH, JOINT = 64, 16, 128, 96


def vision_config() -> CLIPVisionConfig:
    """CLIP's vision transformer, 1.3 M parameters, patch 14 on 112 x 112."""
    return CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=6,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=14,
    )


class Contrast(nn.Module):
    """The vision tower with a two-layer text tower and the two projections of each."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.vision = CLIPVisionModel(vision_config())
        self.words = nn.Embedding(vocab, WIDTH)
        self.places = nn.Parameter(torch.randn(96, WIDTH) * 0.02)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.text = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.text_norm, self.patch_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.to_joint = nn.ModuleDict(
            {k: nn.Linear(WIDTH, JOINT, bias=False) for k in ("image", "caption", "patch", "word")}
        )
        self.scale = nn.Parameter(torch.tensor([2.6, 2.6]))

    def forward(self, images: torch.Tensor, ids: torch.Tensor, known: torch.Tensor) -> dict[str, torch.Tensor]:
        """Losses of a batch: images [B,3,H,W], ids [B,T] int64, known [B,T] bool (not padding)."""
        seen = self.vision(images)
        read = self.text_norm(self.text(self.words(ids) + self.places[: ids.shape[1]], src_key_padding_mask=~known))
        pooled = (read * known[..., None]).sum(1) / known.sum(1, keepdim=True)
        unit = {
            "image": seen.pooler_output,
            "caption": pooled,
            "patch": self.patch_norm(seen.last_hidden_state[:, 1:]),
            "word": read,
        }
        unit = {k: functional.normalize(self.to_joint[k](v), dim=-1) for k, v in unit.items()}
        scale = self.scale.exp().clamp(max=100)
        whole = scale[0] * unit["image"] @ unit["caption"].T
        target = torch.arange(len(images))
        global_loss = (functional.cross_entropy(whole, target) + functional.cross_entropy(whole.T, target)) / 2
        local, local_accuracy = interaction(unit["patch"], unit["word"], known, scale[1])
        accuracy = (whole.argmax(1) == target).float().mean()
        return {
            "loss": global_loss + local,
            "global": global_loss,
            "local": local,
            "accuracy": accuracy,
            "local_accuracy": local_accuracy,
        }


def interaction(
    patches: torch.Tensor, words: torch.Tensor, known: torch.Tensor, scale: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """FILIP's loss and the share of captions that find their image, within groups of 16 pairs.

    patches [B,P,D] and words [B,T,D] of unit length, known [B,T] bool. Groups keep the cost linear in the batch.
    """
    g = len(patches) // GROUP
    patches, words, known = (x.unflatten(0, (g, GROUP)) for x in (patches, words, known))
    pairs = torch.einsum("gipd,gjtd->gijpt", patches, words)
    to_image = (pairs.amax(3) * known[:, None]).sum(-1) / known.sum(-1)[:, None]
    to_text = pairs.masked_fill(~known[:, None, :, None, :], -1.0).amax(4).mean(-1)
    target = torch.arange(GROUP).repeat(g)
    by_image, by_caption = to_text.flatten(0, 1), to_image.transpose(1, 2).flatten(0, 1)
    loss = (
        functional.cross_entropy(scale * by_image, target) + functional.cross_entropy(scale * by_caption, target)
    ) / 2
    return loss, (by_caption.argmax(1) == target).float().mean()


def pretrain(
    tokenizer: PreTrainedTokenizerFast, work: Path, steps: int, lr: float = 1e-3
) -> tuple[CLIPVisionModel, Path]:
    """Trains for `steps` steps of 64 pairs, three in four steps within one kind of picture (hard negatives)."""
    torch.manual_seed(0)
    model = Contrast(len(tokenizer))

    def step_fn(step: int) -> dict[str, torch.Tensor]:
        shown = pictures("clip", step, BATCH, one_kind=step % 4 != 0)
        rng = Random(f"caption/{step}")
        rows = tokenizer([shuffled_caption(p, rng) for p in shown], add_special_tokens=False).input_ids
        width = min(96, max(map(len, rows)))
        pad = int(tokenizer.pad_token_id)  # type: ignore[arg-type]
        ids = torch.tensor([(r + [pad] * width)[:width] for r in rows])
        losses: dict[str, torch.Tensor] = model(pixels([p.image for p in shown]), ids, ids != pad)
        return losses

    log = fit("mini-clip", work, model, step_fn, Schedule(steps, lr, warmup=200, weight_decay=0.1))
    return model.vision.eval(), log
