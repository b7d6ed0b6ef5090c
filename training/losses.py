"""What a network is trained to make small.

Shape legend: N images, D embedding, C classes, T teacher's embedding.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor


def batch_hard_triplet_loss(embeddings_ND: Tensor, labels_N: Tensor, margin: float | None) -> Tensor:
    """Pull the farthest image of the same identity closer than the nearest of another, by a margin.

    Euclidean distances on embeddings as they come, mean over anchors; without a margin the soft one,
    log(1 + exp(positive - negative)) (Hermans et al., 2017, section 2). Every label needs two images, and
    there must be two labels.
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
    """Weigh every pair's cosine by how far it is from its goal, mean over anchors.

    Sun et al., "Circle Loss", CVPR 2020, equations 4-6 and 8, with O_p = 1 + margin, O_n = -margin, and an
    anchor's positives being the other images of its label. Every label needs two images.
    """
    cosines_NN = _cosines(embeddings_ND)
    is_same_NN = labels_N[:, None] == labels_N[None, :]
    is_positive_NN = is_same_NN & ~torch.eye(len(labels_N), dtype=torch.bool, device=labels_N.device)
    pull_NN = F.relu(1 + margin - cosines_NN.detach()) * (1 - margin - cosines_NN)
    push_NN = F.relu(cosines_NN.detach() + margin) * (cosines_NN - margin)
    positives_N = (scale * pull_NN).masked_fill(~is_positive_NN, -torch.inf).logsumexp(dim=1)
    negatives_N = (scale * push_NN).masked_fill(is_same_NN, -torch.inf).logsumexp(dim=1)
    return F.softplus(positives_N + negatives_N).mean()


def centre_loss(embeddings_ND: Tensor, labels_N: Tensor, centres_CD: Tensor) -> Tensor:
    """Return half the mean squared distance of the embeddings to the centres of their classes.

    Wen et al., "A Discriminative Feature Learning Approach for Deep Face Recognition", ECCV 2016, equation 2,
    divided by the number of images.
    """
    return (embeddings_ND.float() - centres_CD[labels_N]).square().sum(dim=1).mean() / 2


def moved_centres(embeddings_ND: Tensor, labels_N: Tensor, centres_CD: Tensor, rate: float) -> Tensor:
    """Return the centres, each gone towards the embeddings of its class in the batch (equation 4 there).

    >>> moved_centres(torch.ones(2, 1), torch.tensor([1, 1]), torch.zeros(2, 1), 0.5).flatten().tolist()
    [0.0, 0.3333333432674408]
    """
    sums_CD = torch.zeros_like(centres_CD).index_add_(0, labels_N, embeddings_ND.float())
    counts_C1 = torch.bincount(labels_N, minlength=len(centres_CD))[:, None]
    return centres_CD + rate * (sums_CD - counts_C1 * centres_CD) / (1 + counts_C1)


def influence_loss(embeddings_ND: Tensor, labels_N: Tensor, prototypes_CD: Tensor, scale: float) -> Tensor:
    """Return the cross-entropy of an old network's classifier on the embeddings of a new one.

    Shen et al., "Towards Backward-Compatible Representation Learning", CVPR 2020, section 3.2. The classifier
    is made of prototypes as in their section 3.3; its logits are cosines times ``scale`` (see
    training/compatibility.py).
    """
    cosines_NC = F.normalize(embeddings_ND.float(), dim=1) @ F.normalize(prototypes_CD, dim=1).T
    return F.cross_entropy(scale * cosines_NC, labels_N)


def teacher_loss(predicted_NT: Tensor, teacher_NT: Tensor) -> Tensor:
    """Return the mean of 1 - cosine between what the student's head predicts and the teacher's embedding."""
    return 1 - F.cosine_similarity(predicted_NT.float(), teacher_NT.float(), dim=1).mean()


def teacher_relations_loss(embeddings_ND: Tensor, teacher_NT: Tensor) -> Tensor:
    """Return the mean squared difference of the two networks' cosines over all pairs of the batch.

    The cosine is what a search ranks by (similarity matching as in Park et al., "Relational Knowledge
    Distillation", CVPR 2019, with cosines in the place of distances).
    """
    student_NN, teacher_NN = _cosines(embeddings_ND), _cosines(teacher_NT)
    return F.mse_loss(student_NN, teacher_NN)


def _cosines(embeddings_ND: Tensor) -> Tensor:
    normalised = F.normalize(embeddings_ND.float(), dim=1)
    return normalised @ normalised.T
