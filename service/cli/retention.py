"""`reid retention`: how long a service keeps items, and the word that lets an expiry go on that waits."""

import typer

from service.cli.options import DEFAULT_URL, AsJson, Url, errors_as_sentences
from service.cli.terminal import err, out, print_json, print_line, shown_time
from service.client import Client, RetentionAnswer

app = typer.Typer(
    help="How long a service keeps items: show it, and confirm an expiry that waits for a person.",
    no_args_is_help=True,
)


@app.command()
def show(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show how long items are kept, and the expiry that waits, if one does."""
    with errors_as_sentences(), Client(url) as client:
        answer = client.get_retention()
    if as_json:
        print_json(answer)
        return
    print_line(out, _limits(answer))
    held = answer.held
    print_line(
        out, "no expiry waits" if held is None else f"{held.detail}; waiting since {shown_time(held.since)}"
    )


@app.command()
def confirm(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Erase what is past its retention now, although it is much, or the clock has jumped.

    What becomes past its retention later is judged by itself.
    """
    with errors_as_sentences(), Client(url) as client:
        held = client.get_retention().held
        if held is None:
            print_line(err, "no expiry waits for a confirmation")
            raise typer.Exit(1)
        print_line(err, held.detail)
        answer = client.confirm_expiry(held.as_of)
    if as_json:
        print_json(answer)
        return
    print_line(out, f"confirmed: {answer.num_items} items are erased, as of {shown_time(answer.as_of)}")


def _limits(answer: RetentionAnswer) -> str:
    """Return the limits as a sentence.

    >>> answer = {"request_id": "1", "retention_max_share": 0.2, "held": None}
    >>> one = {"retention_days": 30.0, "retention_days_by_camera": {"door": 0.5}}
    >>> _limits(RetentionAnswer(**answer, **one))
    'items are erased after 30 days, of camera door after 0.5 days'
    >>> _limits(RetentionAnswer(**answer, retention_days=None, retention_days_by_camera={}))
    'items are kept for ever'
    """
    days, by_camera = answer.retention_days, answer.retention_days_by_camera
    parts = [] if days is None else [f"after {days:g} days"]
    parts += [f"of camera {name} after {one:g} days" for name, one in by_camera.items()]
    return f"items are erased {', '.join(parts)}" if parts else "items are kept for ever"
