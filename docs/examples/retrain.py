"""Put a network that was trained in service, unless it is worse than the active one on this gallery.

python retrain.py http://127.0.0.1:8000 run/network.safetensors
"""

import sys
from pathlib import Path

from service.client import Client, Job


def ended(client: Client, job: Job) -> Job:
    """Wait for the end of a job, and return the job."""
    *_, last = client.follow_job(job)
    if last.state != "succeeded":
        sys.exit(f"the {last.kind} has {last.state}: {last.error}")
    return last


url, checkpoint = sys.argv[1:]
with Client(url) as client:
    network = client.register_model(Path(checkpoint))
    result = ended(client, client.evaluate_model(network.version)).result or {}
    for version, found in result["versions"].items():
        print(f"{version}: rank-1 {found['rank1']:.1f}, mAP {found['mAP']:.1f}")
    if network.state != "active":
        ended(client, client.activate_model(network.version, require_better=True))
    print(f"{network.version} is in service")
