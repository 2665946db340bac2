"""Losses of other libraries as they are published, in plain PyTorch, under the names they have.

They stand in for libraries that the tests do not install.
"""

import torch
import torch.nn.functional as F


def binary_focal_loss_with_logits(x, y, alpha=0.25, gamma=2.0, pos_weight=1.0, weight=1.0):
    """kornia.losses.binary_focal_loss_with_logits, reduction="none"."""
    hit, miss = torch.sigmoid(x), torch.sigmoid(-x)
    positive = -alpha * pos_weight * miss**gamma * y * F.logsigmoid(x)
    return weight * (positive - (1 - alpha) * hit**gamma * (1 - y) * F.logsigmoid(-x))


def sigmoid_focal_loss(inputs, targets, alpha=0.25, gamma=2.0, reduction="none"):
    """torchvision.ops.sigmoid_focal_loss: Lin et al., Focal Loss, equation 5."""
    p = inputs.sigmoid()
    miss = p * (1 - targets) + (1 - p) * targets
    balance = alpha * targets + (1 - alpha) * (1 - targets) if alpha >= 0 else 1.0
    loss = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    loss = balance * miss**gamma * loss
    return loss if reduction == "none" else getattr(loss, reduction)()


def asymmetric_sum(x, y, gamma_neg=4.0, gamma_pos=1.0, clip=0.05, eps=1e-8):
    """Ben-Baruch et al., Asymmetric Loss, section 2, summed; the gradient is the full one."""
    p = x.sigmoid()
    q = (1 - p + clip).clamp(max=1)
    log_likelihood = y * p.clamp(min=eps).log() + (1 - y) * q.clamp(min=eps).log()
    miss = 1 - (y * p + (1 - y) * q)
    return -(log_likelihood * miss ** (gamma_pos * y + gamma_neg * (1 - y))).sum()


def AsymmetricLossOptimized():
    """The same class of the authors' github.com/Alibaba-MIIL/ASL, src/loss_functions/losses.py."""
    return asymmetric_sum


def AsymmetricLossMultiLabel():
    """timm.loss.AsymmetricLossMultiLabel, since it has a `reduction`: a mean over the batch."""
    return lambda x, y: asymmetric_sum(x, y) / len(x)


def _hardest(e, labels):
    """Returns each row's distance from its farthest positive and from its nearest negative."""
    d = torch.linalg.vector_norm(e[:, None] - e, dim=-1)
    alike = labels[:, None] == labels
    others = alike & ~torch.eye(len(e), dtype=torch.bool)
    farthest = d.masked_fill(~others, -torch.inf).amax(1)
    return farthest, d.masked_fill(alike, torch.inf).amin(1)


def BatchAllTripletLoss(model, margin=5.0):
    """sentence_transformers.losses: the mean over all triplets whose loss is positive."""

    def loss(batches, labels):
        e = model(batches[0])["sentence_embedding"]
        terms = []
        for a in range(len(e)):
            alike = labels == labels[a]
            negatives = torch.linalg.vector_norm(e[a] - e[~alike], dim=1)
            alike[a] = False
            positives = torch.linalg.vector_norm(e[a] - e[alike], dim=1)
            terms.append((positives[:, None] - negatives + margin).flatten())
        terms = torch.cat(terms)
        return terms[terms > 0].mean()

    return loss


def BatchHardTripletLoss(model, margin=5.0):
    """sentence_transformers.losses: the mean over anchors of the hardest triplet's loss."""

    def loss(batches, labels):
        positive, negative = _hardest(model(batches[0])["sentence_embedding"], labels)
        return (positive - negative + margin).clamp(min=0).mean()

    return loss


def BatchHardSoftMarginTripletLoss(model):
    """sentence_transformers.losses: the same with log(1 + exp(d_ap - d_an))."""

    def loss(batches, labels):
        positive, negative = _hardest(model(batches[0])["sentence_embedding"], labels)
        return (positive - negative).exp().log1p().mean()

    return loss
