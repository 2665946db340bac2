"""DeepID2: a face's feature from identification and verification together.

ORL's faces, 32x32 grey; 30 people to learn from, 10 others to test on. One sample is a pair of
faces. Its loss is the softmax loss over identities of both faces, plus lambda times the contrastive
loss of their 64-dimensional features: 1/2 d^2 where they are of the same person, else
1/2 max(0, m - d)^2. The margin m is no parameter: every K pairs it is set to the threshold on d
that verified the last K pairs best.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mtlfast
import mtlfast.functional as MF
from mtlfast.recipes.experiment import Experiment
from mtlfast.recipes.material.files import arrays, grey
from mtlfast.recipes.material.layers import ByClass, EachImage
from mtlfast.recipes.material.pairs import pair_auc, pairs, spread
from mtlfast.recipes.material.training import make_trainer
from mtlfast.train import MultiTaskModel, Samples, Task
from mtlfast.weighting import Weighting

__all__ = ["build"]

CLAIM = "verification of unseen people is best between lambda 0 and infinity"
DATA = "a directory with ORL's faces, orl.npz"
VARIANTS = {
    "both": "verification by all pairs",
    "same": "by pairs of one person only (L2+)",
    "different": "by pairs of two people only (L2-)",
}
EPOCHS = 4
WEIGHTING = "fixed"
BATCH_SIZE = 32
FILE = "orl.npz"
PEOPLE, FEATURES = 30, 64
RATE = 1e-3
LAMBDA, DISTANCES = 0.05, ("euclidean", "manhattan", "cosine")
# The paper leaves open how often the margin follows; left alone it falls to 0 under large lambdas.
K, MIN_MARGIN = 256, 0.1


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that this recipe alone has."""
    words = "of verification; inf: it alone (default: %(default)s)"
    parser.add_argument("--lambda", type=float, default=LAMBDA, dest="lam", help=words)
    words = "of features in the contrastive loss (default: %(default)s)"
    parser.add_argument("--distance", choices=DISTANCES, default=DISTANCES[0], help=words)


def build(
    *,
    data: Path,
    seed: int,
    variant: str = "both",
    lam: float = LAMBDA,
    distance: str = DISTANCES[0],
    **options: Any,
) -> Experiment:
    """Returns the experiment: pairs of faces through one network, unseen people to verify.

    Args:
        data, seed, options: as for every recipe; the seed draws the pairs, too.
        variant: which pairs the contrastive loss sees.
        lam: lambda, the weight of verification; infinity leaves out identification.
        distance: that of ``contrastive_loss``.
    """
    if not lam >= 0:
        raise ValueError(f"lambda must be at least 0; got {lam}.")
    images, identity = faces(data)
    seen = identity < PEOPLE
    generator = np.random.default_rng(seed)
    train = pairs(images[seen], identity[seen], generator)
    test = pairs(images[~seen], identity[~seen], generator)
    test.targets["identity"] = torch.full_like(test.targets["identity"], -1)
    torch.manual_seed(seed)
    model = network()
    verify = Verification(distance, variant)
    alone = math.isinf(lam)
    # Over pairs, not faces: the paper adds the losses of a pair's two faces.
    ident: Any = {"weight": float(not alone), "normalizer": "rows", "metrics": ["accuracy"]}
    tasks = [
        Task("identity", output="identity", target="identity", loss="cross_entropy", **ident),
        Task("same", output="feature", target="same", loss=verify, weight=1.0 if alone else lam),
    ]

    def optimizer(weigh: Weighting) -> torch.optim.Optimizer:
        learned = [*model.parameters(), *verify.parameters(), *weigh.parameters()]
        return torch.optim.Adam(learned, lr=RATE)

    trainer = make_trainer(
        model, tasks, train, BATCH_SIZE, seed=seed, optimizer=optimizer, **options
    )

    def measure() -> dict[str, float]:
        unseen = Samples(images[~seen].unsqueeze(1), {})
        feature = trainer.predict(unseen)["feature"].squeeze(1)
        people = identity[~seen]
        found = {"pair AUC": pair_auc(feature, people, verify.distances)}
        found |= spread(feature, people)
        return found if distance == "cosine" else found | {"margin": verify.margin.margin.item()}

    return Experiment(trainer, train, None, None, test, BATCH_SIZE, measure)


class Verification(nn.Module):
    """The contrastive loss of pairs of features, with a margin that follows the data.

    The cosine form has no margin; it learns a scale and a bias.
    """

    def __init__(self, distance: str, kind: str) -> None:
        super().__init__()
        self.distance, self.kind = distance, kind
        self.margin = mtlfast.MarginUpdater(window=K, min_margin=MIN_MARGIN)
        learned = distance == "cosine"
        self.scale = nn.Parameter(torch.tensor(5.0)) if learned else None
        self.bias = nn.Parameter(torch.tensor(-2.5)) if learned else None

    def distances(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Returns the distance of each pair; for cosine, 1 - cos."""
        if self.distance == "cosine":
            return 1 - F.cosine_similarity(x1, x2, dim=-1)
        return torch.linalg.vector_norm(x1 - x2, 1 if self.distance == "manhattan" else 2, -1)

    def forward(self, feature: Tensor, same: Tensor) -> Tensor:
        """Returns the loss of each pair (N,) of features (N, 2, D)."""
        x1, x2 = feature.unbind(1)
        if self.training and self.distance != "cosine":
            self.margin.observe(self.distances(x1, x2).detach(), same)
        counts = {"both": same >= 0, "same": same > 0, "different": same == 0}[self.kind]
        form: Any = {"distance": self.distance, "scale": self.scale, "bias": self.bias}
        return MF.contrastive_loss(
            x1, x2, same, self.margin(len(same)), **form, sample_weight=counts, reduction="none"
        )


def network() -> MultiTaskModel:
    """Returns three convolutions and a layer of 64 features, the identities on top of it."""
    layers: list[nn.Module] = []
    for before, after in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    backbone = EachImage(*layers, nn.Flatten(), nn.Linear(64 * 4 * 4, FEATURES))
    return MultiTaskModel(
        backbone, {"identity": ByClass(FEATURES, PEOPLE), "feature": nn.Identity()}
    )


def faces(data: Path) -> tuple[Tensor, Tensor]:
    """Returns all faces (N, 1, 32, 32), grey around 0, and the numbers of their people (N,)."""
    (part,) = arrays(data, [FILE], ["images", "identity"])
    small = F.interpolate(grey(part["images"]), (32, 32), mode="bilinear", antialias=True)
    return small, torch.from_numpy(part["identity"]).long()
