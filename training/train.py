"""Train a network, evaluate it, and put it in service on request.

Usage: ``python training/train.py --recipe NAME --data DIR --output DIR``, or ``python -m training.train``;
on several GPUs of one machine ``torchrun --nproc-per-node N training/train.py ...``.
"""

import typer

from model.checkpoint import load_checkpoint
from training.data.readers import read_dataset
from training.engine import distributed
from training.engine.trainer import Trainer
from training.options.command import command, exit_on_error
from training.options.run import TrainOptions
from training.recipes.named import find_recipe, follow
from training.reports.finished_run import finish_run
from training.weights.deployment import check_connection, deploy


def train(options: TrainOptions) -> None:
    """Train a network by a recipe, and write it to OUTPUT/network.safetensors."""
    with exit_on_error("train", ValueError), distributed.joined(options.device) as device:
        if options.deploy_to:
            check_connection(options.deploy_to)
        dataset = read_dataset(options.data, needs=("train", "query", "gallery"))
        recipe = find_recipe(options.recipe)
        initial = options.find_initial(recipe.architecture)
        card = initial.checkpoint.card if initial and initial.checkpoint else None
        recipe = follow(recipe, card, [sample.pid for sample in dataset.train])
        trainer = Trainer(
            recipe,
            dataset,
            options.output,
            initial=initial,
            teacher=options.find_teacher(recipe, dataset, device),
            compatible_with=load_checkpoint(options.compatible_with) if options.compatible_with else None,
            device=device,
            num_workers=options.workers,
            save_every_s=options.save_seconds,
            is_compiled=options.is_compiled,
        )
        path = finish_run(trainer, trainer.fit(resume=options.resume), dataset)
        if options.deploy_to and distributed.rank() == 0:
            deploy(
                path,
                options.deploy_to,
                is_activated=options.is_activated,
                require_better=options.require_better,
            )


main = command(TrainOptions, train)

if __name__ == "__main__":
    typer.run(main)
