"""A training step: precision, accumulation, gradient checkpointing, EMA, teachers and errors."""

import gc
import json
import multiprocessing
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import openvino
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from live_server import make_checkpoint
from market1501_people import write_people
from model.architectures import build_network
from model.checkpoint import load_checkpoint
from model.preprocess import Preprocess
from model.runtime import convert
from training.data.crops import Batch
from training.data.datasets import ReidDataset, open_crop
from training.data.readers import read_market1501
from training.engine.errors import TrainingError
from training.engine.learner import Learner, LossNotFinite
from training.engine.optimizers import learning_rate
from training.engine.trainer import Trainer
from training.recipes.named import tiny
from training.recipes.recipe import Recipe
from training.weights.teachers import NetworkTeacher, open_teacher

CPU = torch.device("cpu")
PLAIN = replace(tiny(), precision="fp32", optimizer="sgd", learning_rate=0.1, momentum=0.0, weight_decay=0.0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ReidDataset:
    """Eight people for training and two others for testing."""
    root = tmp_path_factory.mktemp("people")
    write_people(root / "bounding_box_train", range(1, 9), range(1, 3), 2)
    write_people(root / "query", range(21, 23), range(1, 2), 1)
    write_people(root / "bounding_box_test", range(21, 23), range(2, 3), 1)
    return read_market1501(root)


def make_learner(recipe: Recipe, teacher: NetworkTeacher | None = None, seed: int = 0) -> Learner:
    torch.manual_seed(seed)
    network = build_network("tiny", height=64, width=32, num_identities=4)
    network.gradient_checkpointing = recipe.gradient_checkpointing
    learner = Learner(recipe, network, teacher, CPU)
    learner.train()
    return learner


def make_batch(seed: int) -> Batch:
    images = torch.randn(8, 3, 64, 32, generator=torch.Generator().manual_seed(seed))
    return Batch(images, torch.arange(4).repeat_interleave(2), torch.arange(8))


def gradients(learner: Learner) -> dict[str, Tensor]:
    named = learner.network.named_parameters()
    return {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}


def test_accumulated_batches_make_the_mean_of_their_gradients() -> None:
    each = []
    for seed in (1, 2):
        learner = make_learner(PLAIN)
        learner.train_step(make_batch(seed))
        each.append(gradients(learner))
    both = make_learner(PLAIN)
    for seed in (1, 2):
        both.train_step(make_batch(seed), num_batches=2)
    for name, gradient in gradients(both).items():
        torch.testing.assert_close(gradient, (each[0][name] + each[1][name]) / 2)
    before = {name: value.detach().clone() for name, value in both.network.named_parameters()}
    gathered = gradients(both)
    both.optimizer_step(0.1)
    for name, value in both.network.named_parameters():
        torch.testing.assert_close(value.detach(), before[name] - 0.1 * gathered.get(name, torch.zeros(1)))
    assert not gradients(both)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    plain, saving = make_learner(PLAIN), make_learner(replace(PLAIN, gradient_checkpointing=True))
    for seed in range(3):
        outcomes = [learner.train_step(make_batch(seed)) for learner in (plain, saving)]
        assert outcomes[0] == outcomes[1]
        for learner in (plain, saving):
            learner.optimizer_step(0.1)
    for left, right in zip(plain.ema.state_dict().values(), saving.ema.state_dict().values(), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_lower_precision_trains_as_fp32_does_but_for_rounding(precision: Any) -> None:
    lower, full = make_learner(replace(PLAIN, precision=precision)), make_learner(PLAIN)
    losses = [[learner.train_step(make_batch(1)).losses["loss"] for learner in (lower, full)]]
    for learner in (lower, full):
        learner.optimizer_step(1e-3)
    for ours, expected in zip(weights(lower), weights(full), strict=True):
        torch.testing.assert_close(ours, expected, atol=2e-3, rtol=2e-2)
    losses.append([learner.train_step(make_batch(1)).losses["loss"] for learner in (lower, full)])
    assert all(left == pytest.approx(right, rel=0.02) for left, right in losses)
    assert losses[0][0] != losses[0][1]
    assert bool(lower.state_dict()["scaler"]) == (precision == "fp16")


def weights(learner: Learner) -> list[Tensor]:
    return [value.detach().clone() for value in learner.network.parameters()]


def test_fp16_skips_a_step_whose_gradient_overflows_and_lowers_the_scale() -> None:
    learner = make_learner(replace(PLAIN, precision="fp16"))
    learner.train_step(make_batch(1))
    learner.network.classifier.weight.grad = torch.full((4, 64), torch.inf)  # type: ignore[union-attr]
    before, scale = weights(learner), learner.state_dict()["scaler"]["scale"]
    learner.optimizer_step(0.1)
    assert all(map(torch.equal, before, weights(learner)))
    assert learner.state_dict()["scaler"]["scale"] == scale / 2


def test_the_moving_average_follows_the_weights_by_its_decay() -> None:
    learner = make_learner(replace(PLAIN, ema_decay=0.75))
    name = "classifier.weight"
    kept = []
    for seed in (1, 2):
        learner.train_step(make_batch(seed))
        learner.optimizer_step(0.1)
        kept.append(learner.network.state_dict()[name].clone())
    expected = 0.75 * kept[0] + 0.25 * kept[1]
    torch.testing.assert_close(learner.ema.module.state_dict()[name], expected)
    bare = make_learner(replace(PLAIN, ema_decay=0.0))
    for seed in (1, 2):
        bare.train_step(make_batch(seed))
        bare.optimizer_step(0.1)
    for key, value in bare.ema.module.state_dict().items():
        assert torch.equal(value, bare.network.state_dict()[key])


def test_frozen_statistics_of_the_neck_stay() -> None:
    learner = make_learner(replace(PLAIN, frozen_neck_statistics=True))
    before = {key: value.clone() for key, value in learner.network.state_dict().items()}
    learner.train_step(make_batch(1))
    after = learner.network.state_dict()
    assert torch.equal(after["neck.running_mean"], before["neck.running_mean"])
    assert not torch.equal(after["backbone.0.1.running_mean"], before["backbone.0.1.running_mean"])


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    learner = make_learner(PLAIN)
    batch = make_batch(1)
    batch.images[3, 0, 0, 0] = torch.nan
    with pytest.raises(LossNotFinite, match="the loss became nan") as caught:
        learner.train_step(batch)
    assert set(caught.value.losses) == {"loss", "identity", "triplet"}
    assert not gradients(learner)


def test_a_run_stops_at_a_loss_that_is_not_finite_and_dumps_the_batch(
    dataset: ReidDataset, tmp_path: Path
) -> None:
    recipe = replace(tiny(), learning_rate=1e30, warmup_epochs=0.0, precision="fp32")
    with pytest.raises(TrainingError, match=r"the loss became .* in .*nan-batch\.json") as caught:
        Trainer(recipe, dataset, tmp_path, num_workers=0).fit()
    assert "\n" not in str(caught.value)
    facts = json.loads((tmp_path / "nan-batch.json").read_text())
    tensors = load_file(tmp_path / "nan-batch.safetensors")
    assert tensors["images"].shape == (8, 3, 64, 32)
    by_path = {str(sample.path): sample.pid for sample in dataset.train}
    assert [by_path[path] for path in facts["paths"]] == facts["pids"]
    assert (facts["epoch"], len(facts["pids"])) == (1, 8)
    assert facts["losses"]["loss"] in ("nan", "inf")


def test_compiling_without_a_compiler_ends_in_a_clear_error() -> None:
    torch.manual_seed(0)
    network = build_network("plain_tiny", height=64, width=32, num_identities=4)
    learner = Learner(PLAIN, network, None, CPU, is_compiled=True)
    with (
        torch._inductor.config.patch({"cpp.cxx": (None, "/nowhere/c++")}),
        pytest.raises(
            TrainingError, match="--compile does not work on this machine, train without it"
        ) as caught,
    ):
        learner.train_step(make_batch(1))
    assert "\n" not in str(caught.value)
    assert not any("_orig_mod" in name for name in learner.network.state_dict())


def student() -> Preprocess:
    return Preprocess(64, 32)


def test_a_live_teacher_embeds_the_augmented_images_of_the_student(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "teacher.safetensors", seed=5)
    teacher = open_teacher(tmp_path / "teacher.safetensors", student(), CPU, mean=0, scale=1, is_bgr=False)
    batch = make_batch(1)
    network = load_checkpoint(tmp_path / "teacher.safetensors").network
    with torch.no_grad():
        expected = network(batch.images)
    seen = teacher(batch.images, batch.positions)
    assert teacher.size == 64
    torch.testing.assert_close(seen, expected, atol=1e-4, rtol=1e-3)
    assert not seen.requires_grad


def test_a_foreign_teacher_gets_pixels_in_its_own_size_channels_and_scale(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "teacher.safetensors", seed=5)
    network = load_checkpoint(tmp_path / "teacher.safetensors").network
    openvino.save_model(convert(network, (3, 64, 32)), tmp_path / "foreign.xml", compress_to_fp16=False)
    as_rgb, as_bgr = (
        open_teacher(tmp_path / "foreign.xml", Preprocess(128, 64), CPU, mean=10.0, scale=50.0, is_bgr=is_bgr)
        for is_bgr in (False, True)
    )
    pixels = 255 * torch.rand(8, 3, 64, 32, generator=torch.Generator().manual_seed(1))
    larger = pixels.repeat_interleave(2, 2).repeat_interleave(2, 3)
    batch = student().normalise(larger)
    shrunk = torch.nn.functional.interpolate(larger, (64, 32), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = network((shrunk - 10) / 50)
        flipped = network((shrunk.flip(1) - 10) / 50)
    normalise = torch.nn.functional.normalize
    for teacher, wanted in ((as_rgb, expected), (as_bgr, flipped)):
        seen = teacher(batch, torch.arange(8))
        torch.testing.assert_close(normalise(seen), normalise(wanted), atol=1e-3, rtol=0)
    assert (normalise(expected) - normalise(flipped)).abs().max() > 0.05


def test_the_teacher_losses_are_zero_for_a_student_that_equals_its_teacher(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "teacher.safetensors", seed=5)
    teacher = open_teacher(tmp_path / "teacher.safetensors", student(), CPU, mean=0, scale=1, is_bgr=False)
    recipe = replace(PLAIN, teacher_relations_weight=40.0)
    same, other = make_learner(recipe, teacher), make_learner(recipe, teacher, seed=6)
    same.network.load_state_dict(load_checkpoint(tmp_path / "teacher.safetensors").network.state_dict())
    same.network.eval()  # use the teacher's statistics, but return the output of training mode
    same.network.training = True
    losses = [learner.train_step(make_batch(1)).losses for learner in (same, other)]
    assert losses[0]["teacher_relations"] == pytest.approx(0, abs=1e-4)
    assert losses[1]["teacher_relations"] > 0.1
    assert losses[0]["teacher"] == pytest.approx(0, abs=1e-4)  # no head, because the sizes are equal
    assert losses[1]["teacher"] > 1


def test_a_student_comes_closer_to_a_live_teacher_than_a_student_without_one(
    dataset: ReidDataset, tmp_path: Path
) -> None:
    recipe = replace(tiny(), num_epochs=15, learning_rate=1e-2, precision="fp32", erasing_probability=0.0)
    Trainer(replace(recipe, seed=1), dataset, tmp_path / "teacher", num_workers=0).fit()
    path = tmp_path / "teacher" / "last.safetensors"
    teacher = open_teacher(path, student(), CPU, mean=0, scale=1, is_bgr=False)
    recipe = replace(recipe, teacher_weight=5.0, teacher_relations_weight=400.0, num_epochs=40)
    crops = student()([open_crop(sample.path) for sample in (*dataset.query, *dataset.train)])
    goal = relations(teacher(crops, torch.arange(len(crops))))
    distances = {}
    for name, found in (("with", teacher), ("without", None)):
        Trainer(recipe, dataset, tmp_path / name, teacher=found, num_workers=0).fit()
        network = load_checkpoint(tmp_path / name / "last.safetensors").network
        with torch.no_grad():
            distances[name] = float((relations(network(crops)) - goal).square().mean())
    assert distances["with"] < 0.7 * distances["without"]


def relations(embeddings: Tensor) -> Tensor:
    normalised = torch.nn.functional.normalize(embeddings, dim=1)
    return normalised @ normalised.T


class Recorder:
    """A teacher that records its images and positions."""

    size = 3

    def __init__(self) -> None:
        self.images: list[Tensor] = []
        self.positions: list[int] = []

    def __call__(self, images: Tensor, positions: Tensor) -> Tensor:
        """Return embeddings (N, 3)."""
        self.images += list(images)
        self.positions += positions.tolist()
        return torch.ones(len(images), 3)


def test_a_teacher_gets_positions_in_the_whole_training_split(dataset: ReidDataset, tmp_path: Path) -> None:
    """One identity is held out, and another is left out because it has only one image."""
    train = tuple(sample for i, sample in enumerate(dataset.train) if sample.pid != 2 or i % 4 == 0)
    recipe = replace(tiny(), flip_probability=0.0, crop_padding=0, erasing_probability=0.0)
    recipe = replace(recipe, num_held_out=1, min_images_per_identity=2)
    recorder = Recorder()
    trainer = Trainer(recipe, replace(dataset, train=train), tmp_path, teacher=recorder, num_workers=0)
    trainer.fit()
    assert {train[position].pid for position in recorder.positions} <= {1, 3, 4, 5, 6, 7}
    assert trainer.card().num_identities == 6
    for image, position in zip(recorder.images, recorder.positions, strict=True):
        assert torch.equal(image, student()([open_crop(train[position].path)])[0])


class WorkerKiller(Recorder):
    """A teacher that kills the process that reads crops, as the kernel does when memory runs out."""

    def __call__(self, images: Tensor, positions: Tensor) -> Tensor:
        """Return embeddings (N, 3)."""
        for worker in multiprocessing.active_children():
            worker.kill()
        return super().__call__(images, positions)


# torch raises in whatever runs when the signal of the dead process arrives, and that may be a callback.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_worker_that_dies_ends_the_run_with_a_clear_error(dataset: ReidDataset, tmp_path: Path) -> None:
    recipe = replace(tiny(), identities_per_batch=2, num_epochs=20)
    with pytest.raises(TrainingError, match=r"a process that reads crops died: .* --workers 0") as caught:
        Trainer(recipe, dataset, tmp_path, teacher=WorkerKiller(), num_workers=1).fit()
    assert "\n" not in str(caught.value)
    del caught
    gc.collect()  # torch tells of the dead process at the end of every later one, until its reader is gone
    subprocess.run(["true"], check=True)


def test_an_epoch_ends_with_an_optimizer_step_even_if_fewer_batches_are_left(
    dataset: ReidDataset, tmp_path: Path
) -> None:
    recipe = replace(tiny(), num_epochs=1, accumulation_steps=3, identities_per_batch=2)
    recipe = replace(recipe, sampler="identities")
    Trainer(recipe, dataset, tmp_path, num_workers=0).fit()
    lines = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    groups = [lines[start : start + 3] for start in range(0, len(lines), 3)]
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert int(state["learner"]["ema"]["n_averaged"]) == len(groups)
    for number, group in enumerate(groups):
        expected = learning_rate(recipe, 3 * number / len(lines))
        assert [line["learning_rate"] for line in group] == [expected] * len(group)
