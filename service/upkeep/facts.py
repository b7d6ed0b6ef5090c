"""What GET /metrics says of the gallery: the facts that the database has for all processes."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.jobs.jobs import NOT_ENDED
from service.store.tables import Gallery, Identity, Job, Retention
from service.versions import activation_queue


@dataclass(frozen=True)
class Facts:
    """Some facts of a gallery.

    Attributes:
        newest_change: the number of the newest change.
        num_identities: how many identities there are.
        num_jobs: how many jobs there are by kind and state, where there are any.
        num_backfilling: how many items the activations that have not ended have still to embed.
        is_expiry_held: whether an expiry waits for a person.
    """

    newest_change: int
    num_identities: int
    num_jobs: Mapping[tuple[str, str], int]
    num_backfilling: int
    is_expiry_held: bool


def read_facts(session: Session) -> Facts:
    """Read the facts, by statements that stay cheap in a large gallery."""
    newest_change, held_since = session.execute(
        select(Gallery.newest_change, Retention.held_since).join(Retention, Retention.id == 1)
    ).one()
    left = func.sum(Job.total - Job.done)
    jobs = session.execute(
        select(Job.kind, Job.state, func.count(), left).group_by(Job.kind, Job.state)
    ).all()
    return Facts(
        newest_change=newest_change,
        num_identities=session.scalar(select(func.count()).select_from(Identity)) or 0,
        num_jobs={(kind, state): num for kind, state, num, _ in jobs},
        num_backfilling=sum(
            num for kind, state, _, num in jobs if kind == activation_queue.KIND and state in NOT_ENDED
        ),
        is_expiry_held=held_since is not None,
    )
