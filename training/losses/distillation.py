"""Losses that compare embeddings with those of another network: of a teacher, or of an old network.

Shape legend: N images, D embedding, C classes, T teacher's embedding.
"""

import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor

from training.losses.metric_learning import cosines


def influence_loss(embeddings_ND: Tensor, labels_N: Tensor, prototypes_CD: Tensor, scale: float) -> Tensor:
    """Return the cross-entropy of an old network's classifier on the embeddings of a new network.

    Source: Shen et al., "Towards Backward-Compatible Representation Learning", CVPR 2020, section 3.2.
    Deviation: the logits are scaled cosines, for the reason that training/engine/compatibility.py gives.

    Args:
        embeddings_ND: float (N, D), embeddings of the new network, of any length.
        labels_N: int64 (N,), 0 to C - 1.
        prototypes_CD: float32 (C, D), the mean old embedding of each identity (section 3.3), of any length.
        scale: factor of the cosines, above 0; as a rule 16.
    """
    cosines_NC = F.normalize(embeddings_ND.float(), dim=1) @ F.normalize(prototypes_CD, dim=1).T
    return F.cross_entropy(scale * cosines_NC, labels_N)


def teacher_loss(predicted_NT: Tensor, teacher_NT: Tensor) -> Tensor:
    """Return the mean of 1 - cosine between the student's prediction and the teacher's embedding.

    Args:
        predicted_NT: float (N, T), the teacher's embeddings as the student's head predicts them.
        teacher_NT: float (N, T), the teacher's embeddings.
    """
    return 1 - F.cosine_similarity(predicted_NT.float(), teacher_NT.float(), dim=1).mean()


def teacher_relations_loss(embeddings_ND: Tensor, teacher_NT: Tensor) -> Tensor:
    """Return the mean squared difference between the two networks' cosines over all pairs of the batch.

    Source: the distance-wise loss of Park et al., "Relational Knowledge Distillation", CVPR 2019.
    Deviation: pairs are compared by cosine, because a search ranks by cosine.

    Args:
        embeddings_ND: float (N, D), embeddings of the student.
        teacher_NT: float (N, T), embeddings of the teacher; T may differ from D.
    """
    student_NN, teacher_NN = cosines(embeddings_ND), cosines(teacher_NT)
    return F.mse_loss(student_NN, teacher_NN)
