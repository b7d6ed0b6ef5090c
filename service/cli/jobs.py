"""`reid jobs`: list, show, follow and cancel what the service does in the background."""

from enum import StrEnum
from typing import Annotated

import typer

from service.cli.options import DEFAULT_URL, AsJson, Url, errors_as_sentences
from service.cli.terminal import new_table, out, print_json, print_line, progress_bar, shown_time
from service.client import Client, Job

app = typer.Typer(
    help="Jobs of the service: imports, activations, evaluations. List, show, follow and cancel them.",
    no_args_is_help=True,
)


class State(StrEnum):
    """The state of a job."""

    queued = "queued"
    running = "running"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"


JobId = Annotated[str, typer.Argument(metavar="JOB", help="The id of a job.")]


@app.command("list")
def list_jobs(
    url: Url = DEFAULT_URL,
    state: Annotated[list[State] | None, typer.Option(help="Only jobs in this state; may repeat.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="The most jobs to list.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, the newest first."""
    with errors_as_sentences(), Client(url) as client:
        answer = client.list_jobs(states=[one.value for one in state or []], limit=limit)
    if as_json:
        print_json(answer)
        return
    table = new_table("job", "kind", "state", "done", "failed", "queued at")
    for job in answer.jobs:
        done = f"{job.done} of {job.total}"
        table.add_row(job.id, job.kind, job.state, done, str(job.num_failed), shown_time(job.created_at))
    out.print(table)


@app.command()
def show(job_id: JobId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show how far a job is, and why if it has failed."""
    with errors_as_sentences(), Client(url) as client:
        _print_job(client.get_job(job_id), as_json)


@app.command()
def follow(job_id: JobId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Wait for the end of a job; exit 1 unless it has succeeded. Ctrl-C does not end the job."""
    with errors_as_sentences(), Client(url) as client, progress_bar() as on_progress:
        for job in client.follow_job(client.get_job(job_id)):
            on_progress(job.done, job.total)
    _print_job(job, as_json)
    raise typer.Exit(0 if job.state == "succeeded" else 1)


@app.command()
def cancel(job_id: JobId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Cancel a job. What an import has enrolled stays, and so does the version that is active now."""
    with errors_as_sentences(), Client(url) as client:
        _print_job(client.cancel_job(job_id), as_json)


def _print_job(job: Job, as_json: bool) -> None:
    if as_json:
        print_json(job)
        return
    left = "" if job.seconds_left is None else f", {job.seconds_left:.0f} s left"
    error = "" if job.error is None else f": {job.error}"
    print_line(out, f"{job.kind} {job.id} is {job.state}, {job.done} of {job.total} done{left}{error}")
