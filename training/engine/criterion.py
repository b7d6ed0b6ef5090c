"""The losses of a recipe over one batch, with the parameters that belong to the losses."""

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor, nn

from model.layers import TrainingOutput
from training.engine.errors import TrainingError
from training.losses.distillation import influence_loss, teacher_loss, teacher_relations_loss
from training.losses.metric_learning import batch_hard_triplet_loss, centre_loss, circle_loss, moved_centres
from training.recipes.recipe import Recipe


class Criterion(nn.Module):
    """The recipe's losses, with the class centres and a linear head that predicts the teacher's embedding.

    If the embeddings of student and teacher have the same size, there is no head: the student's embedding is
    itself the prediction. The optimiser trains the head; `move_centres` moves the centres.

    Args:
        recipe: its fields on losses.
        embedding_size: D of the student.
        num_identities: C, the classes.
        teacher_size: T, the size of the teacher's embedding; 0 without a teacher.
        prototypes_CD: float32 (C, D), the frozen classifier of an old network, or None.

    Raises:
        TrainingError: there is no teacher, and the recipe has no other loss.
    """

    def __init__(
        self,
        recipe: Recipe,
        embedding_size: int,
        num_identities: int,
        teacher_size: int,
        prototypes_CD: Tensor | None = None,
    ) -> None:
        super().__init__()
        self._recipe = recipe
        own = (recipe.identity_weight, recipe.circle_weight, recipe.centre_weight)
        if not teacher_size and not any(own) and recipe.triplet == "none":
            raise TrainingError(
                f"{recipe.name} learns only from a teacher: give a teacher, or a recipe with another loss"
            )
        has_head = teacher_size not in (0, embedding_size) and recipe.teacher_weight > 0
        self.head = nn.Linear(embedding_size, teacher_size, bias=False) if has_head else None
        self.centres: Tensor
        num_centres = num_identities if recipe.centre_weight > 0 else 0
        self.register_buffer("centres", torch.zeros(num_centres, embedding_size))
        self.prototypes: Tensor | None
        self.register_buffer("prototypes", prototypes_CD)

    def forward(
        self, output: TrainingOutput, labels_N: Tensor, teacher_NT: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the weighted terms of the loss by name; their sum is the loss.

        Args:
            output: of the network in training mode, for N images.
            labels_N: int64 (N,), 0 to C - 1.
            teacher_NT: float (N, T), the teacher's embeddings, or None.
        """
        recipe, pooled_ND = self._recipe, output.pooled
        logits = output.logits.float()
        identity = F.cross_entropy(logits, labels_N, label_smoothing=recipe.label_smoothing)
        # also at weight 0, because DistributedDataParallel waits for the gradient of the classifier
        terms = {"identity": recipe.identity_weight * identity}
        if recipe.triplet != "none":
            margin = recipe.triplet_margin if recipe.triplet == "hard" else None
            terms["triplet"] = batch_hard_triplet_loss(pooled_ND, labels_N, margin)
        if recipe.circle_weight > 0:
            circle = circle_loss(pooled_ND, labels_N, recipe.circle_margin, recipe.circle_scale)
            terms["circle"] = recipe.circle_weight * circle
        if recipe.centre_weight > 0:
            terms["centre"] = recipe.centre_weight * centre_loss(pooled_ND, labels_N, self.centres)
        if self.prototypes is not None and recipe.compatible_weight > 0:
            influence = influence_loss(output.embedding, labels_N, self.prototypes, recipe.compatible_scale)
            terms["influence"] = recipe.compatible_weight * influence
        if teacher_NT is not None:
            terms |= self._teacher_terms(output.embedding, teacher_NT)
        return terms

    def _teacher_terms(self, embedding_ND: Tensor, teacher_NT: Tensor) -> dict[str, Tensor]:
        terms = {}
        if (weight := self._recipe.teacher_weight) > 0:
            predicted_NT = embedding_ND if self.head is None else self.head(embedding_ND.float())
            terms["teacher"] = weight * teacher_loss(predicted_NT, teacher_NT)
        if (weight := self._recipe.teacher_relations_weight) > 0:
            terms["teacher_relations"] = weight * teacher_relations_loss(embedding_ND, teacher_NT)
        return terms

    @torch.no_grad()
    def move_centres(self, output: TrainingOutput, labels_N: Tensor) -> None:
        """Move the class centres towards the embeddings of a batch (see `moved_centres`)."""
        if self._recipe.centre_weight > 0:
            rate = self._recipe.centre_rate
            self.centres.copy_(moved_centres(output.pooled, labels_N, self.centres, rate))
