"""Search for each of several people at the same time, and show where the best match was seen.

python search.py http://127.0.0.1:8000 query.jpg ...
"""

import asyncio
import sys
from pathlib import Path

from service.client import AsyncClient


async def find(client: AsyncClient, path: Path) -> str:
    """Return a sentence about the person on a crop."""
    answer = await client.search([path], top_k=1)
    if not answer.matches:
        return f"{path}: nobody is in the gallery"
    (best,) = answer.matches
    cameras = [visit.camera_id async for visit in client.list_visits(best.identity_id)]
    return f"{path}: {best.identity_id}, score {best.score:.2f}, seen by {cameras}"


async def main(url: str, *paths: str) -> None:
    """Search for the people on all crops."""
    async with AsyncClient(url) as client:
        for line in await asyncio.gather(*(find(client, Path(path)) for path in paths)):
            print(line)


asyncio.run(main(*sys.argv[1:]))
