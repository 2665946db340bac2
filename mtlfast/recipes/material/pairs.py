"""Pairs of samples of known identity, and how well features tell which belong together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from mtlfast.train import Samples

__all__ = ["pair_auc", "pairs", "spread"]


def pairs(images: Tensor, identity: Tensor, generator: np.random.Generator) -> Samples:
    """Returns every pair of faces of one person, and as many drawn pairs of two people.

    Raises:
        ValueError: where a person has a single face, or there is but one person.
    """
    people, counts = identity.unique(return_counts=True)
    fewest = int(counts.argmin())
    if len(people) < 2:
        raise ValueError(f"pairs need 2 identities; there is but identity {people[0]}.")
    if counts[fewest] < 2:
        got = f"identity {people[fewest]} has {counts[fewest]}"
        raise ValueError(f"pairs need 2 images of every identity; {got}.")
    first, second = torch.triu_indices(len(images), len(images), 1)
    same = identity[first] == identity[second]
    apart = (~same).nonzero().squeeze(1)
    drawn = torch.from_numpy(generator.permutation(len(apart))[: int(same.sum())])
    chosen = torch.cat((same.nonzero().squeeze(1), apart[drawn]))
    pair = torch.stack((first[chosen], second[chosen]), 1)
    return Samples(images[pair], {"identity": identity[pair], "same": same[chosen].long()})


def pair_auc(feature: Tensor, identity: Tensor, distance: Callable[..., Tensor]) -> float:
    """Returns how well distances tell the pairs of one person from all others: ROC-AUC.

    Args:
        feature: (N, D).
        identity: (N,).
        distance: of the rows of two (M, D), (M,).
    """
    first, second = torch.triu_indices(len(feature), len(feature), 1)
    nearness = -distance(feature[first], feature[second])
    return float(roc_auc_score(identity[first] == identity[second], nearness))


def spread(feature: Tensor, identity: Tensor) -> dict[str, float]:
    """Returns the traces of the scatter matrices between and within people, per sample.

    Args:
        feature: (N, D).
        identity: (N,).
    """
    people = [feature[identity == person] for person in identity.unique()]
    counts = torch.tensor([len(faces) for faces in people])
    centres = torch.stack([faces.mean(0) for faces in people]) - feature.mean(0)
    between = (centres.square().sum(1) * counts).sum() / len(feature)
    total = (feature - feature.mean(0)).square().sum() / len(feature)
    return {"inter spread": between.item(), "intra spread": (total - between).item()}
