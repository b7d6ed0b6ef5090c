"""Enrol the crops that a camera writes into a folder, as they come.

python camera_loop.py http://127.0.0.1:8000 door crops [--once]
"""

import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from service.client import Client, ClientError, CropFile, Refused


def enroll_new(client: Client, camera_id: str, folder: Path) -> None:
    """Enrol each crop of a folder, and move it to the folder of those that are done, or that were refused."""
    for path in sorted(folder.glob("*.jpg")):
        captured_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        crop = CropFile(path, camera_id=camera_id, captured_at=captured_at)
        try:
            (item,) = client.enroll([crop]).items
        except Refused as refusal:
            print(f"{path.name} is refused: {refusal}")
            done = folder / "refused"
        else:
            print(f"{path.name} is item {item.id} of {item.identity_id}")
            done = folder / "done"
        done.mkdir(exist_ok=True)
        path.rename(done / path.name)


url, camera, crops = sys.argv[1:4]
while True:
    try:
        with Client(url) as client:
            while True:
                enroll_new(client, camera, Path(crops))
                if "--once" in sys.argv:
                    sys.exit()
                time.sleep(1)
    except ClientError as error:  # the crops stay where they are until the service is back
        print(error)
        time.sleep(10)
