"""What a network is trained to make small. Shape legend: N images, D embedding, T teacher's embedding."""

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor


def batch_hard_triplet_loss(embeddings_ND: Tensor, labels_N: Tensor, margin: float) -> Tensor:
    """Pull the farthest image of the same identity closer than the nearest of another, by a margin.

    Euclidean distances on embeddings as they come, mean over anchors (Hermans et al., 2017, section 2). Every
    label needs two images, and there must be two labels.
    """
    distances_NN = torch.cdist(
        embeddings_ND.float(), embeddings_ND.float(), compute_mode="donot_use_mm_for_euclid_dist"
    )
    is_same_NN = labels_N[:, None] == labels_N[None, :]
    hardest_positive_N = distances_NN.masked_fill(~is_same_NN, -torch.inf).amax(dim=1)
    hardest_negative_N = distances_NN.masked_fill(is_same_NN, torch.inf).amin(dim=1)
    return F.relu(hardest_positive_N - hardest_negative_N + margin).mean()


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
