"""Omniglot's characters by alphabet, in quadruplets: what the labelstructures recipe reads.

The images lie in order: alphabet after alphabet, in it character after character, each by the same
twenty drawers.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mtlfast.recipes.material.files import arrays
from mtlfast.train import Samples

__all__ = ["Quadruplets", "read", "retrieval"]

FILE = "omniglot_small.npz"
DRAWERS = 20
HELD_OUT = 0.25


class Quadruplets(Samples):
    """Each image as an anchor, with three more that are drawn anew whenever it is read.

    The second is another image of the same character, the third of another character of the same
    alphabet, the fourth of another alphabet; or, without levels, both of any other character.

    Args:
        images: (20 C, 1, 28, 28).
        alphabets: (C,), sorted, at least two characters of each.
        levels: whether the alphabet decides.
    """

    def __init__(self, images: Tensor, alphabets: Tensor, levels: bool = True) -> None:
        self.characters, self.levels = len(alphabets), levels
        labels = torch.arange(len(images)) // DRAWERS
        super().__init__(images, {"character": labels, "alphabet": alphabets[labels]})
        counts = alphabets.bincount()
        self.first, self.size = (counts.cumsum(0) - counts)[alphabets], counts[alphabets]

    def __getitem__(self, index: int | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        rows = self.rows(torch.as_tensor(index))
        targets = {"character": rows // DRAWERS, "alphabet": self.targets["alphabet"][index]}
        return self.inputs[rows], targets

    def rows(self, anchor: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Returns the images of each anchor's quadruplet: (..., 4)."""
        total, own = self.characters, anchor // DRAWERS
        first, size = self.first[own], self.size[own]

        def below(bound: Tensor | int) -> Tensor:
            return (torch.rand(anchor.shape, generator=generator) * bound).long()

        same = own * DRAWERS + (anchor + 1 + below(DRAWERS - 1)) % DRAWERS
        if self.levels:
            near = first + (own - first + 1 + below(size - 1)) % size
            far = (first + size + below(total - size)) % total
        else:
            near, far = ((own + 1 + below(total - 1)) % total for _ in range(2))
        others = [character * DRAWERS + below(DRAWERS) for character in (near, far)]
        return torch.stack((anchor, same, *others), -1)


def read(folder: Path, levels: bool) -> tuple[Quadruplets, Samples, Quadruplets]:
    """Returns the training data, fixed quadruplets of held-out characters, and their images.

    A quarter of the characters of each alphabet is held out, always the same.

    Args:
        folder: the directory of omniglot_small.npz.
        levels: as for ``Quadruplets``.

    Raises:
        ValueError: where the file is not there, or lacks an array.
    """
    (file,) = arrays(folder, [FILE], ["images28", "alphabet"])
    images = torch.from_numpy(file["images28"]).unsqueeze(1).float() / 255
    alphabets = torch.from_numpy(file["alphabet"][::DRAWERS]).long()
    generator = torch.Generator().manual_seed(0)
    held = torch.zeros(len(alphabets), dtype=torch.bool)
    for alphabet in alphabets.unique():
        members = (alphabets == alphabet).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=generator)
        held[members[order[: round(HELD_OUT * len(members))]]] = True
    of_held = held.repeat_interleave(DRAWERS)
    train = Quadruplets(images[~of_held], alphabets[~held], levels)
    test = Quadruplets(images[of_held], alphabets[held])
    rows = test.rows(torch.arange(len(test)), generator)
    missing = torch.full(rows.shape, -1)
    targets = {"character": missing, "alphabet": test.targets["alphabet"]}
    return train, Samples(test.inputs[rows], targets), test


def retrieval(features: Tensor, character: Tensor, alphabet: Tensor) -> dict[str, float]:
    """Returns how often the nearest image is of the same character, or of the same alphabet.

    For the alphabet all images of the query's own character are removed.

    Args:
        features: (N, D).
        character, alphabet: (N,) labels.
    """
    unit = F.normalize(features)
    near = unit @ unit.T
    same = character[:, None] == character
    nearest = near.masked_fill(torch.eye(len(near), dtype=torch.bool), -2).argmax(1)
    coarse = near.masked_fill(same, -2).argmax(1)
    return {
        "character@1": (character[nearest] == character).float().mean().item(),
        "alphabet@1": (alphabet[coarse] == alphabet).float().mean().item(),
    }
