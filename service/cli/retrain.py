"""`reid retrain`: fine-tune the active network on the people of the gallery, and activate the result."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from model.data.folders import MANIFEST
from service.cli.export import Format
from service.cli.export import export as export_gallery
from service.cli.options import DEFAULT_URL, Url, errors_as_sentences
from service.cli.terminal import out, print_line, progress_bar
from service.client import KEY_VARIABLE, Client, find_key

MIN_CAMERAS = 2


def retrain(
    target: Annotated[
        Path, typer.Option("--out", help="A new folder for the exported gallery and the training run.")
    ],
    url: Url = DEFAULT_URL,
    recipe: Annotated[
        str, typer.Option(help="Name in training/recipes/named.py, or a run's recipe.json.")
    ] = "finetune",
    attribute: Annotated[
        list[str] | None, typer.Option(help="Train only on people with this name=value; may repeat.")
    ] = None,
    even_if_worse: Annotated[
        bool, typer.Option("--even-if-worse", help="Activate the new network even if it is worse.")
    ] = False,
) -> None:
    """Fine-tune the active network on people whom two or more cameras have seen, and activate the result.

    A network that is worse on this gallery is registered but not activated. The export in OUT holds images of
    people: protect it as you protect the gallery, or delete it.
    """
    folder = target / "gallery"
    with errors_as_sentences(), Client(url) as client, progress_bar() as on_progress:
        target.mkdir(parents=True)
        exported = export_gallery(
            client,
            folder,
            Format.csv,
            {"attribute": attribute},
            min_cameras=MIN_CAMERAS,
            on_progress=on_progress,
        )
    print_line(out, f"{exported.num_items} items in {folder}")
    command = [sys.executable, "-m", "training.train", "--recipe", recipe, "--init", "active"]
    command += ["--data", f"csv:{folder / MANIFEST}", "--output", str(target / "run")]
    command += ["--deploy", url, "--activate", *([] if even_if_worse else ["--require-better"])]
    key = find_key(url)
    environment = os.environ if key is None else {**os.environ, KEY_VARIABLE: key}
    trained = subprocess.run(command, check=False, env=environment)  # noqa: S603 - no shell reads it
    raise typer.Exit(trained.returncode)
