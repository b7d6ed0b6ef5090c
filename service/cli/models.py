"""`reid models`: the networks of a service, and networks of others as checkpoints of ours."""

import json
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from service.cli.options import DEFAULT_URL, AsJson, Url, errors_as_sentences
from service.cli.terminal import err, out, print_evaluation, print_line, print_models, progress_bar
from service.client import Client, Job, Strategy

app = typer.Typer(
    help="The networks that a service has: list, register, evaluate, activate, roll back, delete.",
    no_args_is_help=True,
)


NUMBERS = "NUMBER[,NUMBER,NUMBER]"


class Branch(StrEnum):
    """Which of the RGA authors' networks a checkpoint of theirs holds."""

    rgasc = "rgasc"
    rgas = "rgas"
    rgac = "rgac"


class Feature(StrEnum):
    """What a network answers with: its pooled feature, or that after BatchNorm."""

    pooled = "pooled"
    bn = "bn"


class Channels(StrEnum):
    """In which order a network reads the colours of a pixel."""

    rgb = "rgb"
    bgr = "bgr"


@app.command("list")
def list_models(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List the networks that the service has."""
    with errors_as_sentences(), Client(url) as client:
        answer = client.list_models()
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    else:
        print_models(answer)


@app.command()
def register(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A checkpoint.")],
    url: Url = DEFAULT_URL,
) -> None:
    """Send a checkpoint to the service; print its version."""
    with errors_as_sentences(), Client(url) as client:
        typer.echo(client.register_model(file)["version"])


@app.command()
def show(version: str, url: Url = DEFAULT_URL) -> None:
    """Print all there is to say of a version, as JSON; "active" is the one in service."""
    with errors_as_sentences(), Client(url) as client:
        typer.echo(json.dumps(client.get_model(version), indent=2))


@app.command()
def activate(
    version: str,
    url: Url = DEFAULT_URL,
    strategy: Annotated[
        Strategy, typer.Option(help="compatible: embed queries with it at once, the gallery behind.")
    ] = "backfill",
    require_better: Annotated[
        bool, typer.Option("--require-better", help="Refuse it if its evaluation says that it is worse.")
    ] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out items whose crop is gone.")
    ] = False,
) -> None:
    """Re-embed the gallery with a version and switch to it; the service answers searches meanwhile.

    Ctrl-C leaves the activation to the service; `reid models cancel` ends it.
    """
    with errors_as_sentences(), Client(url) as client:
        job = client.activate_model(
            version, strategy=strategy, require_better=require_better, allow_missing=allow_missing
        )
        _follow(client, job)


@app.command()
def rollback(url: Url = DEFAULT_URL) -> None:
    """Put the version back in service that was active before."""
    with errors_as_sentences(), Client(url) as client:
        _follow(client, client.roll_back())


@app.command()
def cancel(url: Url = DEFAULT_URL) -> None:
    """Cancel the activation that is under way; the version in service stays."""
    with errors_as_sentences(), Client(url) as client:
        jobs = [job for job in client.list_running_jobs() if job["kind"] == "activation"]
        for job in jobs:
            client.cancel_job(job["id"])
    print_line(out, "the activation is cancelled" if jobs else "no activation is under way")


@app.command()
def delete(version: str, url: Url = DEFAULT_URL) -> None:
    """Delete a version that is not in service, with its embeddings."""
    with errors_as_sentences(), Client(url) as client:
        client.delete_model(version)
    print_line(out, f"{version} is deleted")


def _follow(client: Client, job: Job) -> None:
    """Draw an activation until it has ended."""
    version = job["model_version"]
    with progress_bar() as on_progress:
        for job in client.follow_job(job):  # noqa: B020
            on_progress(job["done"], job["total"])
    if job["state"] != "succeeded":
        print_line(err, f"{version}: activation {job['state']}: {job['error']}")
        raise typer.Exit(1)
    print_line(out, f"{version} is in service")


@app.command()
def evaluate(version: str, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Judge a version and the active one on the gallery's own labelled items."""
    with errors_as_sentences(), Client(url) as client, progress_bar() as on_progress:
        for job in client.follow_job(client.evaluate_model(version)):
            on_progress(job["done"], job["total"])
    if job["state"] != "succeeded":
        print_line(err, f"{version}: evaluation {job['state']}: {job['error']}")
        raise typer.Exit(1)
    if as_json:
        typer.echo(json.dumps(job["result"], indent=2))
    else:
        print_evaluation(job["result"] or {})


@app.command("import-official")
def import_official(
    file: Annotated[Path, typer.Argument(help="A .pth.tar of the RGA authors' ResNet-50 at 256 x 128.")],
    output: Annotated[Path, typer.Option("--out", help="The .safetensors checkpoint to write.")],
    branch: Annotated[Branch, typer.Option(help="Their --branch_name.")] = Branch.rgasc,
    feature: Annotated[
        Feature,
        typer.Option(help="Their pooled `feat_`, or `feat` after BatchNorm; they judge both."),
    ] = Feature.pooled,
) -> None:
    """Make a checkpoint of ours of one that the RGA authors' code has trained; no service is needed."""
    from model.errors import ModelError
    from model.interop import official

    try:
        version = official.import_official(file, output, branch=branch.value, feature=feature.value)
    except ModelError as error:
        print_line(err, str(error))
        raise typer.Exit(1) from None
    print_line(out, f"{version} in {output}: {official.BRANCHES[branch]} with the {feature} feature")


@app.command("import-onnx")
def import_onnx(
    file: Annotated[Path, typer.Argument(help="An .onnx, or the .xml of an OpenVINO IR beside its .bin.")],
    height: Annotated[int, typer.Option(min=1, max=1024, help="Of the images it reads, in pixels.")],
    width: Annotated[int, typer.Option(min=1, max=1024, help="Of the images it reads, in pixels.")],
    mean: Annotated[str, typer.Option(metavar=NUMBERS, help="Subtracted from each channel, after --scale.")],
    std: Annotated[str, typer.Option(metavar=NUMBERS, help="What each channel is divided by then.")],
    channels: Annotated[
        Channels, typer.Option(help="The order of colours; --mean and --std too.")
    ] = Channels.rgb,
    scale: Annotated[float, typer.Option(min=0, help="What pixels, 0 to 255, are divided by first.")] = 255.0,
    output: Annotated[
        Path | None, typer.Option("--out", help="Write the checkpoint here; do not send it.")
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Make a checkpoint of a network of others and send it to the service; print its version.

    It is tried first: one image in, one finite embedding out, which differs from image to image. A wrong
    --mean, --std, --scale or --channels goes unnoticed but for worse matches: take them from where the
    network comes from.
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
    typer.echo(version)


def _three(option: str, text: str) -> tuple[float, float, float]:
    """Read one number for all channels, or three with commas between them."""
    try:
        numbers = [float(part) for part in text.split(",")]
        first, second, third = numbers * 3 if len(numbers) == 1 else numbers
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither one number nor three", param_hint=option) from None
    return first, second, third
