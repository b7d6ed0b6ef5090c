"""Tasks beside the requests: whatever a task raises, the task is logged and runs again."""

from threading import Event

import pytest
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from service.api.access import Callers
from service.api.background import Background, Task
from service.api.claims import Claims
from service.audit.log import Audit
from service.errors import DatabaseUnavailable
from service.serving.serving import Serving
from service.settings import Settings
from service.store.database import make_engine, make_sessions
from service.store.store import Store

TIMEOUT_S = 30


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (KeyError("nobody expects this"), "error"),
        (DatabaseUnavailable("gone for a moment"), "warning"),
        (OperationalError("select", {}, Exception("gone")), "warning"),
        (OSError("no disk"), "warning"),
    ],
)
def test_a_task_that_fails_is_logged_once_in_the_log_and_runs_again(
    settings: Settings, error: Exception, level: str
) -> None:
    engine = make_engine(settings.database_url)
    store = Store(settings, make_sessions(engine))
    background = Background(Serving(store), Claims(store), Callers(store), Audit(store), [])
    has_run_again, wake = Event(), Event()
    num_runs = 0

    def work() -> None:
        nonlocal num_runs
        num_runs += 1
        if num_runs <= 2:
            raise error
        has_run_again.set()

    with capture_logs() as lines:
        wake.set()
        background.start([Task("fragile", work, TIMEOUT_S, wake)])
        assert has_run_again.wait(TIMEOUT_S)
        background.stop()
    engine.dispose()
    assert [(line["task"], line["log_level"]) for line in lines] == [("fragile", level)]
