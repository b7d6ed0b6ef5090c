"""Killed again and again while clients work, on SQLite and on PostgreSQL: every answer stays true."""

from killed_server import torment
from live_server import find_free_port
from service.settings import Settings
from service.store.database import make_engine, make_sessions
from service.store.store import Store
from service.upkeep.check import check


def test_what_was_answered_is_true_after_kills(either_settings: Settings, is_long: bool) -> None:
    ledger = torment(either_settings, find_free_port(), num_kills=5 if is_long else 2, seed=1)
    assert ledger.lost == []
    assert ledger.tried["POST gallery 201"] > 10, ledger.tried
    assert ledger.tried["DELETE gallery 204"] > 3, ledger.tried
    engine = make_engine(either_settings.database_url)
    report = check(Store(either_settings, make_sessions(engine)))
    engine.dispose()
    assert report.findings == []
    assert report.num_items >= len(ledger.alive)
