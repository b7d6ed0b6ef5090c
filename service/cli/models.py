"""`reid models`: manage the model versions of a service, and import networks of other projects."""

from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from model.files import from_home
from service.cli.options import DEFAULT_URL, AsJson, Url, errors_as_sentences
from service.cli.terminal import (
    err,
    out,
    print_evaluation,
    print_json,
    print_line,
    print_models,
    progress_bar,
)
from service.client import Client, Job, Strategy

app = typer.Typer(
    help="Manage the model versions of a service, and import networks of other projects.",
    no_args_is_help=True,
)


NUMBERS = "NUMBER[,NUMBER,NUMBER]"


class Branch(StrEnum):
    """Which network of the RGA authors a checkpoint of theirs holds, by its attention modules."""

    rgasc = "rgasc"
    rgas = "rgas"
    rgac = "rgac"


class Feature(StrEnum):
    """Which feature is the embedding: the pooled feature, or the feature after BatchNorm."""

    pooled = "pooled"
    bn = "bn"


class Channels(StrEnum):
    """The order of the colour channels that a network expects."""

    rgb = "rgb"
    bgr = "bgr"


@app.command("list")
def list_models(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List the model versions of the service."""
    with errors_as_sentences(), Client(url) as client:
        answer = client.list_models()
    if as_json:
        print_json(answer)
    else:
        print_models(answer)


@app.command()
def register(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A checkpoint.")],
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Send a checkpoint to the service, and print its version. The active version stays active."""
    with errors_as_sentences(), Client(url) as client:
        registered = client.register_model(file)
    if as_json:
        print_json(registered)
    else:
        typer.echo(registered.version)


@app.command()
def show(version: str, url: Url = DEFAULT_URL, as_json: AsJson = True) -> None:  # noqa: ARG001 - always JSON
    """Print the details of a model version as JSON; "active" names the active version."""
    with errors_as_sentences(), Client(url) as client:
        print_json(client.get_model(version))


@app.command()
def activate(
    version: str,
    url: Url = DEFAULT_URL,
    strategy: Annotated[
        Strategy,
        typer.Option(
            help="backfill: embed the gallery, then switch searches. "
            "compatible: embed queries at once, the gallery afterwards."
        ),
    ] = "backfill",
    require_better: Annotated[
        bool,
        typer.Option("--require-better", help="Refuse a version that is worse or has not been evaluated."),
    ] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out items whose crop is missing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Embed the gallery with a model version, and make the version active. Searches go on.

    Ctrl-C ends this command, but not the activation. `reid models cancel` cancels the activation.
    """
    with errors_as_sentences(), Client(url) as client:
        job = client.activate_model(
            version, strategy=strategy, require_better=require_better, allow_missing=allow_missing
        )
        _follow(client, job, as_json)


@app.command()
def rollback(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Make the previously active model version active again."""
    with errors_as_sentences(), Client(url) as client:
        _follow(client, client.roll_back(), as_json)


@app.command()
def cancel(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Cancel the running activation. The active model version stays active."""
    with errors_as_sentences(), Client(url) as client:
        jobs = [
            one for one in client.list_jobs(states=["queued", "running"]).jobs if one.kind == "activation"
        ]
        cancelled = [client.cancel_job(job.id) for job in jobs]
    if as_json:
        print_json(cancelled)
    else:
        print_line(out, "the activation is cancelled" if cancelled else "no activation is running")


@app.command()
def delete(version: str, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Delete a model version that is not active, with its embeddings."""
    with errors_as_sentences(), Client(url) as client:
        client.delete_model(version)
    if as_json:
        print_json({"deleted": version})
    else:
        print_line(out, f"{version} is deleted")


def _follow(client: Client, job: Job, as_json: bool) -> None:
    """Show the progress of an activation until it has ended."""
    version = job.model_version
    with progress_bar() as on_progress:
        for job in client.follow_job(job):  # noqa: B020
            on_progress(job.done, job.total)
    if as_json:
        print_json(job)
    if job.state != "succeeded":
        print_line(err, f"{version}: activation {job.state}: {job.error}")
        raise typer.Exit(1)
    if not as_json:
        print_line(out, f"{version} is in service")


@app.command()
def evaluate(version: str, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Compare a model version with the active one on the labelled items of the gallery."""
    with errors_as_sentences(), Client(url) as client, progress_bar() as on_progress:
        for job in client.follow_job(client.evaluate_model(version)):
            on_progress(job.done, job.total)
    if job.state != "succeeded":
        print_line(err, f"{version}: evaluation {job.state}: {job.error}")
        raise typer.Exit(1)
    if as_json:
        print_json(job.result)
    else:
        print_evaluation(job.result or {})


@app.command("import-official")
def import_official(
    file: Annotated[Path, typer.Argument(help="A .pth.tar of the RGA authors' ResNet-50 at 256 x 128.")],
    output: Annotated[
        Path, typer.Option("--out", callback=from_home, help="The .safetensors checkpoint to write.")
    ],
    branch: Annotated[Branch, typer.Option(help="The --branch_name it was trained with.")] = Branch.rgasc,
    feature: Annotated[
        Feature,
        typer.Option(
            help="The embedding: the pooled `feat_`, or `feat` after BatchNorm in the authors' code."
        ),
    ] = Feature.pooled,
    as_json: AsJson = False,
) -> None:
    """Convert a checkpoint of the RGA authors' code to a checkpoint of this project. No service is needed."""
    from model.errors import ModelError
    from model.interop import official

    try:
        version = official.import_official(file, output, branch=branch.value, feature=feature.value)
    except ModelError as error:
        print_line(err, str(error))
        raise typer.Exit(1) from None
    if as_json:
        print_json({"version": version, "out": str(output)})
    else:
        print_line(out, f"{version} in {output}: {official.BRANCHES[branch]} with the {feature} feature")


@app.command("import-onnx")
def import_onnx(
    file: Annotated[Path, typer.Argument(help="An .onnx, or the .xml of an OpenVINO IR beside its .bin.")],
    height: Annotated[int, typer.Option(min=1, max=1024, help="Height of the input images, in pixels.")],
    width: Annotated[int, typer.Option(min=1, max=1024, help="Width of the input images, in pixels.")],
    mean: Annotated[str, typer.Option(metavar=NUMBERS, help="Subtracted from each channel after --scale.")],
    std: Annotated[str, typer.Option(metavar=NUMBERS, help="Divides each channel after --mean.")],
    channels: Annotated[
        Channels, typer.Option(help="The channel order of the images, --mean and --std.")
    ] = Channels.rgb,
    scale: Annotated[
        float, typer.Option(min=0, help="Divides the pixels, 0 to 255, before --mean and --std.")
    ] = 255.0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--out", callback=from_home, help="Write the checkpoint to this file instead of sending it."
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Convert a network of another project to a checkpoint, send it to the service, and print its version.

    The network is tried first: it must return one finite embedding per image, and different embeddings for
    different images. A wrong --mean, --std, --scale or --channels cannot be detected, and only makes matches
    worse: take these values from the documentation of the network.
    """
    from model.errors import ModelError
    from model.interop.foreign import import_foreign

    means, stds = _three("--mean", mean), _three("--std", std)
    with errors_as_sentences(), TemporaryDirectory() as folder:
        checkpoint = output or Path(folder) / f"{file.stem}.safetensors"
        try:
            version = import_foreign(
                file,
                checkpoint,
                height=height,
                width=width,
                mean=means,
                std=stds,
                channels=channels.value,
                scale=scale,
            )
        except ModelError as error:
            print_line(err, str(error))
            raise typer.Exit(1) from None
        if output is None:
            with Client(url) as client:
                client.register_model(checkpoint)
    if as_json:
        print_json({"version": version, "out": None if output is None else str(output)})
    else:
        typer.echo(version)


def _three(option: str, text: str) -> tuple[float, float, float]:
    """Read one number for all channels, or three with commas between them."""
    try:
        numbers = [float(part) for part in text.split(",")]
        first, second, third = numbers * 3 if len(numbers) == 1 else numbers
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither one number nor three", param_hint=option) from None
    return first, second, third
