"""Train a table of ablations on any data set, row by row, and print what each part of the network is worth.

Usage: ``python training/ablate.py --recipe NAME --data DIR --output DIR --table modules``. A row is the
recipe with another architecture. It is trained and evaluated as by train.py, in OUTPUT/ARCHITECTURE. After an
interruption, the same command resumes the unfinished row and keeps finished rows. The table is written to
OUTPUT/ablation.json and OUTPUT/ablation.md.
"""

from dataclasses import replace

import typer

from training.data.readers import read_dataset
from training.engine import distributed
from training.engine.ablation import TABLES, Row, architectures_of, find_row
from training.engine.trainer import Trainer
from training.options.command import command, exit_on_error
from training.options.run import AblateOptions
from training.recipes.named import find_recipe
from training.reports.ablation_table import print_table, write_table
from training.reports.finished_run import train_row


def ablate(options: AblateOptions) -> None:
    """Train and evaluate the unfinished rows, and print the table; the first row is the baseline.

    With ``only_attention`` in the recipe, a network without attention trains only its classifier. Its row
    then shows what the weights are worth that all rows start from.
    """
    if not (options.table or options.architecture):
        raise SystemExit(f"ablate: name a --table ({', '.join(TABLES)}, all) or rows by --architecture")
    with exit_on_error("ablate", ValueError), distributed.joined(options.device) as device:
        dataset = read_dataset(options.data, needs=("train", "query", "gallery"))
        recipe = find_recipe(options.recipe)
        teacher = options.find_teacher(recipe, dataset, device)
        names = architectures_of(options.table, recipe.architecture) if options.table else ()
        init, teacher_file, resizes = options.init, options.teacher_embeddings, options.resize_relations
        rows: list[Row] = []
        for name in dict.fromkeys([*names, *(options.architecture or ())]):
            with exit_on_error(f"ablate: row {name}", ValueError):
                row_recipe = replace(recipe, name=f"{recipe.name}/{name}", architecture=name)
                rows.append(
                    find_row(row_recipe, dataset, options.output, init, teacher_file, resizes=resizes)
                )
        distributed.wait()  # until every process has read what the first will write
        for number, row in enumerate(rows, start=1):
            with exit_on_error(f"ablate: row {row.name}", ValueError):
                if not row.metrics:
                    trainer = Trainer(
                        row.recipe,
                        dataset,
                        row.folder,
                        initial=options.find_initial(row.name),
                        teacher=teacher,
                        device=device,
                        num_workers=options.workers,
                        save_every_s=options.save_seconds,
                    )
                    train_row(row, trainer, dataset)
                if distributed.rank() == 0:
                    write_table(rows[:number], recipe.name, dataset.name, options.output)
        if distributed.rank() == 0:
            print_table(rows)


main = command(AblateOptions, ablate)

if __name__ == "__main__":
    typer.run(main)
