"""`reid erasures`, whose receipts `reid restore` reads."""

import json
from pathlib import Path

from typer.testing import CliRunner

from command_line import put, run
from live_server import crop, enroll, find_free_port, serve
from service.cli.main import app
from service.settings import Settings
from service.store.database import make_engine, make_sessions
from service.store.store import Store
from service.upkeep.backup import backup
from service.upkeep.restore import read_receipts, restore


def test_receipts_of_erasures_are_printed_as_restore_reads_them(settings: Settings, tmp_path: Path) -> None:
    engine = make_engine(settings.database_url)
    store = Store(settings, make_sessions(engine))
    with serve(settings) as client:
        enroll(client, crop(1), crop(2), identity_id="anna")
        enroll(client, crop(3), identity_id="bert")
        assert json.loads(run(client, "erasures").stdout) == []
        backup(store, tmp_path / "before.tar")
        for name in ("anna", "bert"):
            assert client.delete(f"/identities/{name}", params={"mode": "erase"}).status_code == 200
        backup(store, tmp_path / "after.tar")
        put(tmp_path / "erasures.json", run(client, "erasures").stdout.encode())
    engine.dispose()
    receipts = read_receipts((tmp_path / "erasures.json").read_text(), "erasures.json")
    assert len(receipts) == 2
    for name, num in (("before.tar", 3), ("after.tar", 0)):
        target = Settings(data_dir=tmp_path / name.removesuffix(".tar"))
        num_erased = restore(target, tmp_path / name, receipts).num_erased
        assert num_erased == num
        assert not [path for path in target.crops_dir.rglob("*") if path.is_file()]


def test_commands_say_in_a_line_that_no_service_answers(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{find_free_port()}"
    put(tmp_path / "crops" / "a.jpg", crop(1))
    for command in (("export", "--out", tmp_path / "out"), ("import", tmp_path / "crops"), ("erasures",)):
        done = CliRunner().invoke(app, [*map(str, command), "--url", url], catch_exceptions=False)
        assert (done.exit_code, done.stderr.startswith(f"no service answers at {url}")) == (1, True)
