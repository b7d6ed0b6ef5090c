"""Losses that compare embeddings by the labels of their images.

Shape legend: N images, D embedding, C classes.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor


def batch_hard_triplet_loss(embeddings_ND: Tensor, labels_N: Tensor, margin: float | None) -> Tensor:
    """Return the batch-hard triplet loss: each anchor with its farthest positive and its nearest negative.

    Source: Hermans et al., "In Defense of the Triplet Loss", 2017, section 2. Distances are Euclidean, and
    the loss is the mean over anchors.

    Args:
        embeddings_ND: float (N, D), not normalised.
        labels_N: int64 (N,), two labels or more, with two images or more of each.
        margin: by how much the positive must be nearer than the negative. None takes the paper's soft margin,
            log(1 + exp(positive - negative)).
    """
    distances_NN = torch.cdist(
        embeddings_ND.float(), embeddings_ND.float(), compute_mode="donot_use_mm_for_euclid_dist"
    )
    is_same_NN = labels_N[:, None] == labels_N[None, :]
    hardest_positive_N = distances_NN.masked_fill(~is_same_NN, -torch.inf).amax(dim=1)
    hardest_negative_N = distances_NN.masked_fill(is_same_NN, torch.inf).amin(dim=1)
    excess_N = hardest_positive_N - hardest_negative_N
    return (F.softplus(excess_N) if margin is None else F.relu(excess_N + margin)).mean()


def circle_loss(embeddings_ND: Tensor, labels_N: Tensor, margin: float, scale: float) -> Tensor:
    """Return the circle loss, in which a pair weighs more the farther its cosine is from its optimum.

    Source: Sun et al., "Circle Loss", CVPR 2020, equations 4-6 and 8, with O_p = 1 + margin and
    O_n = -margin. The positives of an anchor are the other images of its label. The loss is the mean over
    anchors.

    Args:
        embeddings_ND: float (N, D), of any length.
        labels_N: int64 (N,), with two images or more of each label.
        margin: m of the paper, 0-1.
        scale: gamma of the paper.
    """
    cosines_NN = cosines(embeddings_ND)
    is_same_NN = labels_N[:, None] == labels_N[None, :]
    is_positive_NN = is_same_NN & ~torch.eye(len(labels_N), dtype=torch.bool, device=labels_N.device)
    pull_NN = F.relu(1 + margin - cosines_NN.detach()) * (1 - margin - cosines_NN)
    push_NN = F.relu(cosines_NN.detach() + margin) * (cosines_NN - margin)
    positives_N = (scale * pull_NN).masked_fill(~is_positive_NN, -torch.inf).logsumexp(dim=1)
    negatives_N = (scale * push_NN).masked_fill(is_same_NN, -torch.inf).logsumexp(dim=1)
    return F.softplus(positives_N + negatives_N).mean()


def centre_loss(embeddings_ND: Tensor, labels_N: Tensor, centres_CD: Tensor) -> Tensor:
    """Return half the mean squared Euclidean distance from the embeddings to the centres of their classes.

    Source: Wen et al., "A Discriminative Feature Learning Approach for Deep Face Recognition", ECCV 2016,
    equation 2. Deviation: the sum is divided by the number of images.

    Args:
        embeddings_ND: float (N, D), not normalised.
        labels_N: int64 (N,), 0 to C - 1.
        centres_CD: float32 (C, D).
    """
    return (embeddings_ND.float() - centres_CD[labels_N]).square().sum(dim=1).mean() / 2


def moved_centres(embeddings_ND: Tensor, labels_N: Tensor, centres_CD: Tensor, rate: float) -> Tensor:
    """Return the centres after each has moved towards the embeddings of its class in the batch.

    Source: equation 4 of the paper that `centre_loss` names.

    Args:
        embeddings_ND: float (N, D), not normalised.
        labels_N: int64 (N,), 0 to C - 1.
        centres_CD: float32 (C, D).
        rate: alpha of the paper, 0-1.

    >>> moved_centres(torch.ones(2, 1), torch.tensor([1, 1]), torch.zeros(2, 1), 0.5).flatten().tolist()
    [0.0, 0.3333333432674408]
    """
    sums_CD = torch.zeros_like(centres_CD).index_add_(0, labels_N, embeddings_ND.float())
    counts_C1 = torch.bincount(labels_N, minlength=len(centres_CD))[:, None]
    return centres_CD + rate * (sums_CD - counts_C1 * centres_CD) / (1 + counts_C1)


def cosines(embeddings_ND: Tensor) -> Tensor:
    """Return the cosines (N, N) of all pairs of embeddings, in float32."""
    normalised = F.normalize(embeddings_ND.float(), dim=1)
    return normalised @ normalised.T
