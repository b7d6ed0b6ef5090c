"""Each loss against a slow reference, and the criterion that adds the losses."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.layers import TrainingOutput
from references import (
    loop_centre_loss,
    loop_circle_loss,
    loop_moved_centres,
    loop_soft_triplet_loss,
    loop_triplet_loss,
)
from training.engine.criterion import Criterion
from training.engine.errors import TrainingError
from training.losses.distillation import teacher_loss, teacher_relations_loss
from training.losses.metric_learning import batch_hard_triplet_loss, centre_loss, circle_loss, moved_centres
from training.recipes.named import tiny
from training.recipes.recipe import Recipe

SEEDS = st.integers(0, 2**31)
LABELS = torch.arange(4).repeat_interleave(3)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, margin=st.floats(0, 2))
def test_the_triplet_loss_equals_the_loop(seed: int, margin: float) -> None:
    embeddings = draw(seed, 12, 5)
    loss = batch_hard_triplet_loss(embeddings, LABELS, margin)
    assert float(loss) == pytest.approx(loop_triplet_loss(embeddings, LABELS, margin), abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_the_soft_triplet_loss_equals_the_loop(seed: int) -> None:
    embeddings = draw(seed, 12, 5)
    loss = batch_hard_triplet_loss(embeddings, LABELS, None)
    assert float(loss) == pytest.approx(loop_soft_triplet_loss(embeddings, LABELS), abs=1e-5)


def test_the_triplet_loss_of_equal_embeddings_has_a_finite_gradient() -> None:
    embeddings = torch.ones(6, 5, requires_grad=True)
    loss = batch_hard_triplet_loss(embeddings, torch.arange(3).repeat_interleave(2), 0.3)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.3)
    assert embeddings.grad is not None
    assert torch.isfinite(embeddings.grad).all()


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, margin=st.floats(0, 0.5), scale=st.floats(1, 64))
def test_the_circle_loss_equals_the_loop(seed: int, margin: float, scale: float) -> None:
    embeddings = draw(seed, 12, 5)
    loss = circle_loss(embeddings, LABELS, margin, scale)
    assert float(loss) == pytest.approx(loop_circle_loss(embeddings, LABELS, margin, scale), rel=1e-4)


def test_the_weights_of_the_circle_loss_carry_no_gradient() -> None:
    """With one pair of each kind, the gradient by a cosine equals that of a loss with constant weights."""
    embeddings = draw(1, 4, 6).requires_grad_()
    labels = torch.tensor([0, 0, 1, 1])
    circle_loss(embeddings, labels, 0.25, 8.0).backward()
    frozen = embeddings.detach().clone().requires_grad_()
    cosines = torch.nn.functional.cosine_similarity(frozen[:, None], frozen[None, :], dim=2)
    total = torch.tensor(0.0)
    for anchor in range(4):
        logits = [
            -8.0 * max(0.0, 1.25 - float(cosines[anchor, j].detach())) * (cosines[anchor, j] - 0.75)
            + 8.0 * max(0.0, float(cosines[anchor, k].detach()) + 0.25) * (cosines[anchor, k] - 0.25)
            for j in range(4)
            for k in range(4)
            if j != anchor and labels[j] == labels[anchor] != labels[k]
        ]
        total = total + torch.log(1 + torch.stack(logits).exp().sum()) / 4
    total.backward()
    torch.testing.assert_close(embeddings.grad, frozen.grad, atol=1e-4, rtol=1e-3)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, rate=st.floats(0, 1))
def test_the_centre_loss_and_its_centres_equal_the_loop(seed: int, rate: float) -> None:
    embeddings, centres = draw(seed, 12, 5), draw(seed + 1, 6, 5)
    loss = centre_loss(embeddings, LABELS, centres)
    assert float(loss) == pytest.approx(loop_centre_loss(embeddings, LABELS, centres), rel=1e-5)
    moved = moved_centres(embeddings, LABELS, centres, rate)
    torch.testing.assert_close(moved, loop_moved_centres(embeddings, LABELS, centres, rate))
    assert torch.equal(moved[4:], centres[4:])


def test_the_teacher_losses_are_zero_for_a_copy_at_any_scale() -> None:
    teacher = draw(0, 6, 8)
    assert float(teacher_loss(3 * teacher, teacher)) == pytest.approx(0, abs=1e-6)
    assert float(teacher_loss(-teacher, teacher)) == pytest.approx(2, abs=1e-6)
    rotation, _ = torch.linalg.qr(draw(1, 8, 8))
    assert float(teacher_relations_loss(5 * teacher @ rotation, teacher)) == pytest.approx(0, abs=1e-6)
    assert float(teacher_relations_loss(draw(2, 6, 8), teacher)) > 0.01


def terms_of(recipe: Recipe, teacher: Tensor | None = None) -> dict[str, float]:
    torch.manual_seed(0)
    criterion = Criterion(recipe, 5, 4, 8 if teacher is None else teacher.shape[1])
    output = TrainingOutput(draw(3, 12, 5), draw(4, 12, 5), draw(5, 12, 4))
    criterion.move_centres(output, LABELS)
    return {name: float(term.detach()) for name, term in criterion(output, LABELS, teacher).items()}


def test_a_recipe_chooses_and_weights_the_losses() -> None:
    plain = replace(tiny(), teacher_weight=0.0)
    assert set(terms_of(plain)) == {"identity", "triplet"}
    assert set(terms_of(replace(plain, triplet="none"))) == {"identity"}
    teacher = draw(6, 12, 8)
    some = replace(
        plain,
        triplet="soft",
        circle_weight=0.5,
        centre_weight=0.01,
        teacher_weight=2.0,
        teacher_relations_weight=3.0,
    )
    doubled = replace(
        some, circle_weight=1.0, centre_weight=0.02, teacher_weight=4.0, teacher_relations_weight=6.0
    )
    once, twice = terms_of(some, teacher), terms_of(doubled, teacher)
    assert set(once) == {"identity", "triplet", "circle", "centre", "teacher", "teacher_relations"}
    assert (
        once["triplet"] == twice["triplet"] == pytest.approx(loop_soft_triplet_loss(draw(3, 12, 5), LABELS))
    )
    for name in ("circle", "centre", "teacher", "teacher_relations"):
        assert twice[name] == pytest.approx(2 * once[name]) != 0


def test_a_teacher_of_the_students_size_is_imitated_without_a_head() -> None:
    recipe = replace(tiny(), identity_weight=0.0, triplet="none", teacher_weight=2.0)
    teacher = draw(6, 12, 5)
    terms = terms_of(recipe, teacher)
    assert terms == {
        "identity": 0.0,
        "teacher": pytest.approx(2 * float(teacher_loss(draw(4, 12, 5), teacher))),
    }
    assert not list(Criterion(recipe, 5, 4, 5).parameters())
    assert [weight.shape for weight in Criterion(recipe, 5, 4, 8).parameters()] == [(8, 5)]


def test_a_recipe_without_a_loss_of_its_own_needs_a_teacher() -> None:
    recipe = replace(tiny(), identity_weight=0.0, triplet="none")
    with pytest.raises(TrainingError, match="tiny learns only from a teacher"):
        Criterion(recipe, 5, 4, 0)
    assert Criterion(replace(recipe, circle_weight=1.0), 5, 4, 0)
    assert terms_of(replace(tiny(), identity_weight=3.0))["identity"] == pytest.approx(
        3 * terms_of(tiny())["identity"]
    )


def test_labels_are_smoothed_by_the_recipe() -> None:
    logits = draw(5, 12, 4)
    targets = torch.full((12, 4), 0.1 / 4).scatter_(1, LABELS[:, None], 0.9 + 0.1 / 4)
    expected = -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()
    assert terms_of(tiny())["identity"] == pytest.approx(float(expected))
    hard = terms_of(replace(tiny(), label_smoothing=0.0))["identity"]
    assert hard == pytest.approx(float(-logits.log_softmax(dim=1)[range(12), LABELS].mean()))
