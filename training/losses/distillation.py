"""Losses of embeddings by those of another network: a teacher, or an old network to stay comparable with.

Shape legend: N images, D embedding, C classes, T teacher's embedding.
"""

import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor

from training.losses.metric_learning import cosines


def influence_loss(embeddings_ND: Tensor, labels_N: Tensor, prototypes_CD: Tensor, scale: float) -> Tensor:
    """Return the cross-entropy of an old network's classifier on the embeddings of a new one.

    Shen et al., "Towards Backward-Compatible Representation Learning", CVPR 2020, section 3.2. The classifier
    is made of prototypes as in their section 3.3; its logits are cosines times ``scale`` (see
    training/engine/compatibility.py).
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
    student_NN, teacher_NN = cosines(embeddings_ND), cosines(teacher_NT)
    return F.mse_loss(student_NN, teacher_NN)
