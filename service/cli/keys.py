"""`reid keys`: make, list, rotate and revoke keys in the data folder; `reid login` and `reid logout`."""

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.offline import audited_here, opened_here
from service.cli.options import DEFAULT_URL, AsJson, DataDir, Url, errors_as_sentences
from service.cli.terminal import err, new_table, out, print_json, print_line
from service.client import Client, save_key
from service.keys.callers import Role

if TYPE_CHECKING:
    from service.store.key_tables import Key

app = typer.Typer(
    help="Keys of the API: make, list, rotate and revoke them, in the data folder and without a server.",
    no_args_is_help=True,
)

Named = Annotated[str, typer.Argument(help="The name or the id of the key.")]


@app.command()
def create(
    name: Annotated[str, typer.Option(help="What people call the key, such as the person or the program.")],
    role: Annotated[
        Role,
        typer.Option(
            help="reader: search and read. operator: also enrol and correct. admin: also delete, erase, swap "
            "networks."
        ),
    ],
    expires: Annotated[
        str | None, typer.Option(help="From when on the key is refused: 90d, 12h or 30m.  [never]")
    ] = None,
    cameras: Annotated[
        str | None, typer.Option(help="The only cameras that the key is for, with commas.  [all]")
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it. The key is shown this once; only a hash of it is stored.

    With the first key the service answers nobody without a key, not even on this machine.
    """
    from service.keys.keys import create_key, expiry_after

    named = None if cameras is None else [one for one in map(str.strip, cameras.split(",")) if one]
    with opened_here(data_dir, "no key made", may_be_new=True) as store:
        until = None if expires is None else expiry_after(expires, store.clock.now())
        with audited_here(store, "create_key", key=name, role=role):
            row, secret = create_key(store, name, role, named, until)
    _print_secret(row, secret, as_json)


@app.command("list")
def list_all(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the keys: id, name, role, cameras, when made, last used, and until when they are valid."""
    from service.keys.keys import list_keys

    with opened_here(data_dir, "no list") as store:
        rows, moment = list_keys(store), store.clock.now()
    if as_json:
        print_json([_shown(row) for row in rows])
        return
    if not rows:
        print_line(err, "there is no key yet, so the service answers everybody on its machine")
        return
    table = new_table("id", "name", "role", "cameras", "made", "last used", "valid")
    for row in rows:
        cameras = "all" if row.cameras is None else ", ".join(row.cameras)
        used = "never" if row.last_used_at is None else _day(row.last_used_at)
        table.add_row(row.id, row.name, row.role, cameras, _day(row.created_at), used, _validity(row, moment))
    out.print(table)


@app.command()
def revoke(named: Named, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Refuse a key from now on, in a running service too, and sign its browsers out."""
    from service.keys.keys import revoke_key

    with opened_here(data_dir, "not revoked") as store, audited_here(store, "revoke_key", key=named):
        row = revoke_key(store, named)
    if as_json:
        print_json(_shown(row))
    else:
        print_line(out, f"the key {row.name!r} ({row.id}) is revoked")


@app.command()
def rotate(named: Named, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Give a key a new secret, and print it. The old secret is refused from now on."""
    from service.keys.keys import rotate_key

    with opened_here(data_dir, "not rotated") as store, audited_here(store, "rotate_key", key=named):
        row, secret = rotate_key(store, named)
    _print_secret(row, secret, as_json)


def login(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Keep the key for a service in a file that only you can read; it is asked for, or read from stdin."""
    if sys.stdin.isatty():
        key = typer.prompt("key", hide_input=True, err=True).strip()
    else:
        key = sys.stdin.readline().strip()
    if not key:
        print_line(err, "no key was given")
        raise typer.Exit(1)
    with errors_as_sentences(), Client(url, key) as client:
        session = client.get_session()
        path = save_key(url, key)
    if as_json:
        print_json(session)
        return
    cameras = "" if session.cameras is None else f", cameras {', '.join(session.cameras)}"
    print_line(out, f"signed in as {session.name} ({session.role}{cameras}); the key is kept in {path}")


def logout(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Forget the key that `reid login` has kept for a service. The key itself stays valid."""
    with errors_as_sentences():
        path = save_key(url, None)
    if as_json:
        print_json({"url": url, "file": str(path)})
    else:
        print_line(out, f"no key for {url} is kept in {path} any more")


def _shown(row: "Key") -> dict[str, Any]:
    """Return what may be shown of a key; its hash may not."""
    names = ("id", "name", "role", "cameras", "created_at", "last_used_at", "expires_at", "revoked_at")
    return {name: getattr(row, name) for name in names}


def _print_secret(row: "Key", secret: str, as_json: bool) -> None:
    if as_json:
        print_json({**_shown(row), "key": secret})
        return
    print_line(err, f"key {row.id} of {row.name!r}, role {row.role}; it is shown this once:")
    print_line(out, secret)


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}Z"


def _validity(row: "Key", moment: datetime) -> str:
    if row.revoked_at is not None:
        return f"revoked {_day(row.revoked_at)}"
    if row.expires_at is None:
        return "for ever"
    return f"{'expired' if row.expires_at <= moment else 'until'} {_day(row.expires_at)}"
