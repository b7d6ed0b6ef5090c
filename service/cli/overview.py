"""`reid cameras` and `reid stats`: what the gallery holds, and how the service does."""

from typing import Annotated

import typer

from service.cli.filters import takes_filters
from service.cli.options import DEFAULT_URL, AsJson, Url, errors_as_sentences
from service.cli.terminal import new_table, out, print_json, print_line, shown_time
from service.client import Client, Filters, ServiceState, Stats


@takes_filters
def cameras(filters: Filters, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List the cameras of the items that pass the filters, with their counts and times."""
    with errors_as_sentences(), Client(url) as client:
        answer = client.list_cameras(**filters)
    if as_json:
        print_json(answer)
        return
    table = new_table("camera", "items", "people", "first seen", "last seen")
    for one in answer.cameras:
        seen = shown_time(one.first_seen), shown_time(one.last_seen)
        table.add_row(one.id, str(one.num_items), str(one.num_identities), *seen)
    out.print(table)


def stats(
    url: Url = DEFAULT_URL,
    days: Annotated[int, typer.Option(min=0, max=92, help="Days of enrolments to show, up to today.")] = 7,
    as_json: AsJson = False,
) -> None:
    """Show how much the gallery holds, by day and in all, and how the service does."""
    with errors_as_sentences(), Client(url) as client:
        answer = client.get_stats(days=days)
    if as_json:
        print_json(answer)
        return
    table = new_table("enrolled", "items", "people", "cameras")
    for day in answer.days:
        table.add_row(str(day.day), str(day.num_items), str(day.num_identities), str(day.num_cameras))
    table.add_row("in all", str(answer.num_items), str(answer.num_identities), str(answer.num_cameras))
    out.print(table)
    for line in _lines(answer):
        print_line(out, line)


def _lines(answer: Stats) -> list[str]:
    versions = answer.versions
    network = f"network {versions.model_version} by {answer.runtime}"
    lines = [f"reid-gallery {versions.program}, schema {versions.schema_version}, {network}"]
    return lines if answer.service is None else [*lines, *_state_lines(answer.service)]


def _state_lines(state: ServiceState) -> list[str]:
    index, storage = state.index, state.storage
    behind = f", {index.num_changes_behind} changes behind" if index.num_changes_behind else ""
    memory = "" if state.memory_bytes is None else f", {state.memory_bytes / 2**20:,.0f} MiB of memory"
    full = ", FULL: nothing more can be enrolled" if storage.is_full else ""
    jobs = [f"{num} {name}" for name, num in sorted(state.num_jobs.items())]
    return [
        f"{index.kind} index of {index.num_items} items{behind}{memory}",
        f"{storage.free_bytes / 2**20:,.0f} MiB free on the fullest disk{full}",
        f"jobs: {', '.join(jobs) or 'none'}",
        *(["an expiry waits for a person: reid retention show"] if state.held_expiry else []),
    ]
