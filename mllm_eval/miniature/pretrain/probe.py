"""What can be read from frozen features with a linear classifier: the check that weights are worth something.

Pictures are drawn fresh (their series is not trained on); features are the mean over patches of what the encoder's
yaml names, standardised; the classifier is scikit-learn's logistic regression.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from mllm_eval.miniature.pretrain.images import pixels
from mllm_eval.miniature.world import Picture, draw
from mllm_eval.miniature.world.objects import scene

Encode = Callable[[torch.Tensor], torch.Tensor]
ATTRIBUTES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "count": ("scene", lambda f: str(len(f["things"]))),
    "shape": ("one", lambda f: f["things"][0][1]),
    "color": ("one", lambda f: f["things"][0][0]),
    "front shape": ("depth", lambda f: f["near"][1]),
    "pattern": ("pattern", lambda f: f["pattern"]),
    "word": ("sign", lambda f: f["word"]),
    "first digit": ("number", lambda f: f["number"][0]),
    "tallest bar": ("chart", lambda f: f["colors"][f["values"].index(max(f["values"]))]),
    "first price": ("table", lambda f: f["prices"][0]),
    "name": ("form", lambda f: f["NAME"]),
}


def _picture(kind: str, index: int) -> Picture:
    if kind == "one":
        return scene(Random(f"probe-one/{index}"), count=1)
    return draw("probe-images", index, kind)


@torch.no_grad()
def probe(encode: Encode, train: int = 1200, test: int = 400) -> dict[str, dict[str, float]]:
    """Accuracy of each attribute by linear probe and by 10 nearest neighbours.

    `encode` maps pixels [B,3,112,112] float32 to patch features [B,P,D].
    """
    out: dict[str, dict[str, float]] = {}
    for name, (kind, label) in ATTRIBUTES.items():
        shown = [_picture(kind, k) for k in range(train + test)]
        y = np.array([label(p.facts) for p in shown])
        x = np.concatenate(
            [encode(pixels([p.image for p in shown[i : i + 100]])).mean(1).numpy() for i in range(0, len(shown), 100)]
        )
        x = StandardScaler().fit(x[:train]).transform(x)
        linear = LogisticRegression(C=0.3, max_iter=300).fit(x[:train], y[:train])
        near = KNeighborsClassifier(10, metric="cosine").fit(x[:train], y[:train])
        out[name] = {
            "linear": float(linear.score(x[train:], y[train:])),
            "knn": float(near.score(x[train:], y[train:])),
            "chance": float(max(np.mean(y == v) for v in set(y))),
        }
    return out
