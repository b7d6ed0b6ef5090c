"""Send mutated requests as raw bytes to `reid serve` for a minute: no 5xx but 503, no traceback, still whole.

    PYTHONPATH=.:tests:tests/support python tests/benchmarks/fuzz_http.py --seconds 60

A request is mutated by a random seed, so a seed that fails is sent again with `--seed N --num 1`.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import httpx
from reid_program import running_server

from live_server import crop, enroll, search
from raw_requests import bombard


def main() -> None:
    """Bombard a server, look whether it is whole afterwards, and print the figures."""
    options = argparse.ArgumentParser()
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--num", type=int, default=1_000_000)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        with running_server(workspace) as (url, _):
            end_s = time.monotonic() + given.seconds
            with httpx.Client(base_url=url, timeout=60) as client:
                (item,) = enroll(client, crop(5), identity_id="witness")
                seeds = range(given.seed, given.seed + given.num)
                counts, bad = bombard(
                    client.base_url.host, client.base_url.port or 80, seeds, lambda: time.monotonic() < end_s
                )
                best = search(client, crop(5))["matches"][0]
                is_whole = client.get("/readyz").is_success and best["identity_id"] == item["identity_id"]
        log = (workspace / "server.log").read_text(errors="replace")
    print(
        f"{sum(counts.values()):,} answers: " + ", ".join(f"{n:,} x {s}" for s, n in sorted(counts.items()))
    )
    print(f"seeds answered 5xx: {bad or 'none'}; tracebacks in the log: {log.count('Traceback')}")
    print(log[log.find("Traceback") :][:9_000] if "Traceback" in log else "", end="")
    print("ready and searching afterwards" if is_whole else "NOT READY afterwards")
    sys.exit(0 if is_whole and not bad and "Traceback" not in log else 1)


if __name__ == "__main__":
    main()
