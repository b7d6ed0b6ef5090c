"""`reid people`: list, show, rename, merge, split, delete and erase people, and undo corrections."""

from itertools import islice
from typing import Annotated

import typer

from service.cli.filters import takes_filters
from service.cli.options import DEFAULT_URL, AsJson, Limit, Url, Yes, errors_as_sentences, require_yes
from service.cli.terminal import err, new_table, out, print_json, print_line, shown_time
from service.client import Client, Filters, Identity, Operation

app = typer.Typer(
    help="People of the gallery: list, show, rename, merge, split, delete and erase them; undo corrections.",
    no_args_is_help=True,
)

Person = Annotated[str, typer.Argument(metavar="PERSON", help="The id of a person.")]
Others = Annotated[list[str], typer.Argument(metavar="OTHER...", help="The ids of the others.")]
Items = Annotated[list[str], typer.Argument(metavar="ITEM...", help="The ids of items of the person.")]
CorrectionId = Annotated[str, typer.Argument(metavar="OPERATION", help="The id of a correction.")]


@app.command("list")
@takes_filters
def list_people(
    filters: Filters,
    url: Url = DEFAULT_URL,
    name: Annotated[str | None, typer.Option(help="A part of the name, in any case.")] = None,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """List the people who pass the filters, in the order in which they were made."""
    with errors_as_sentences(), Client(url) as client:
        found = list(islice(client.list_identities(name=name, **filters), limit + 1))
    people = found[:limit]
    if as_json:
        print_json(people)
    else:
        table = new_table("id", "name", "items", "cameras", "first seen", "last seen")
        for one in people:
            seen = shown_time(one.first_seen), shown_time(one.last_seen)
            table.add_row(one.id, one.name or "", str(one.num_items), ", ".join(one.cameras), *seen)
        out.print(table)
    if len(found) > limit:
        print_line(err, f"there are more than {limit}; --limit shows more of them")


@app.command()
def show(person: Person, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show a person: name, notes, attributes, and when which camera has seen them."""
    with errors_as_sentences(), Client(url) as client:
        found, visits = client.get_identity(person), list(client.list_visits(person))
    if as_json:
        print_json({"identity": found, "visits": visits})
        return
    _print_person(found)
    table = new_table("camera", "from", "to", "items")
    for visit in visits:
        times = shown_time(visit.first), shown_time(visit.last)
        table.add_row(visit.camera_id or "", *times, str(visit.num_items))
    if visits:
        out.print(table)


@app.command()
def rename(
    person: Person,
    name: Annotated[str, typer.Argument(help='The name to show; "" clears it. The id stays.')],
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Change the name that is shown of a person."""
    with errors_as_sentences(), Client(url) as client:
        found = client.describe_identity(person, name=name or None)
    if as_json:
        print_json(found)
    else:
        _print_person(found)


@app.command()
def merge(person: Person, others: Others, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Give the items of others to a person. The others are gone until the merge is undone."""
    with errors_as_sentences(), Client(url) as client:
        _print_correction(client.merge(person, others), as_json)


@app.command()
def split(
    person: Person,
    items: Items,
    to: Annotated[
        str | None, typer.Option(help="The id of the person who gets the items.  [a new one]")
    ] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Give items of a person to another one, by default to a new one."""
    with errors_as_sentences(), Client(url) as client:
        _print_correction(client.split(person, items, new_identity_id=to), as_json)


@app.command()
def history(url: Url = DEFAULT_URL, limit: Limit = 20, as_json: AsJson = False) -> None:
    """List merges, splits, relabels and rejections, the newest first."""
    with errors_as_sentences(), Client(url) as client:
        found = list(islice(client.list_operations(), limit))
    if as_json:
        print_json(found)
        return
    table = new_table("operation", "kind", "at", "by", "people", "items", "undone")
    for one in found:
        undone = shown_time(one.undone_at)
        people = ", ".join(one.identities)
        at = shown_time(one.created_at)
        table.add_row(one.operation_id, one.kind, at, one.by or "", people, str(one.num_items), undone)
    out.print(table)


@app.command()
def undo(operation: CorrectionId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Undo a merge, split, relabel or rejection, unless a later change prevents it."""
    with errors_as_sentences(), Client(url) as client:
        found = client.undo(operation)
    if as_json:
        print_json(found)
    else:
        print_line(out, f"the {found.kind} {found.operation_id} is undone")


@app.command()
def delete(person: Person, url: Url = DEFAULT_URL, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete a person with all their items. Traces may stay in files; `erase` leaves none."""
    with errors_as_sentences(), Client(url) as client:
        found = client.get_identity(person)
        require_yes(yes, f"delete {found.id} with {found.num_items} items?")
        client.delete_identity(person)
    if as_json:
        print_json({"deleted": found})
    else:
        print_line(out, f"{found.id} is deleted, with {found.num_items} items")


@app.command()
def erase(person: Person, url: Url = DEFAULT_URL, yes: Yes = False, as_json: AsJson = False) -> None:
    """Erase a person: no trace of them stays on the disk of the service. Nothing takes this back."""
    with errors_as_sentences(), Client(url) as client:
        found = client.get_identity(person)
        require_yes(yes, f"erase {found.id} with {found.num_items} items, for ever?")
        receipt = client.erase_identity(person)
    if as_json:
        print_json(receipt)
        return
    print_line(out, f"{found.id} is erased, with {receipt.erased.items} items: receipt {receipt.sequence}")
    for place in receipt.out_of_reach:
        print_line(err, f"not reached: {place}")


def _print_person(person: Identity) -> None:
    cameras = f" of {', '.join(person.cameras)}" if person.cameras else ""
    print_line(out, f"{person.id}: {person.name or 'no name'}, {person.num_items} items{cameras}")
    for name, value in sorted(person.attributes.items()):
        print_line(out, f"{name}: {value}")
    for line in (person.notes or "").splitlines():
        print_line(out, f"    {line}")


def _print_correction(operation: Operation, as_json: bool) -> None:
    if as_json:
        print_json(operation)
        return
    people = ", ".join(operation.identities)
    print_line(out, f"{operation.kind} of {operation.num_items} items: {people}")
    print_line(out, f"to take it back: reid people undo {operation.operation_id}")
