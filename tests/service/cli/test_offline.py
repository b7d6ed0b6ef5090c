"""`reid check` on a data folder, beside a server and without one."""

import json
from pathlib import Path

from command_line import MakeEnv, put, reid, reid_serve
from live_server import crop


def test_check_says_what_is_wrong_by_its_exit_code_too(make_env: MakeEnv, tmp_path: Path) -> None:
    env = make_env(tmp_path / "data")
    with reid_serve(env, tmp_path / "log") as running:
        reid("enroll", put(tmp_path / "a.jpg", crop(1)), "--url", running.url)
        done = reid("check", env=env)
        assert done.stdout.strip().endswith("1 items checked, 1 of them embedded again: all is well")
        assert done.returncode == 0
    (path,) = (tmp_path / "data" / "crops").glob("*/*/*")
    path.unlink()
    done = reid("check", "--json", "--data-dir", tmp_path / "data", env=env)
    report = json.loads(done.stdout)
    assert (done.returncode, report["is_clean"], report["num_items"]) == (1, False, 1)
    assert report["findings"][0]["detail"].startswith("item ")
    done = reid("check", "--data-dir", tmp_path / "data", env=env)
    assert done.returncode == 1
    assert "a crop is gone or has changed: item " in done.stdout
