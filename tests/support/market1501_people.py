"""Crops of drawn people in a folder, named as those of Market-1501."""

from pathlib import Path

from live_server import crop


def write_people(folder: Path, pids: range, cameras: range, images: int) -> None:
    folder.mkdir(parents=True)
    for pid in pids:
        for camera in cameras:
            for image in range(images):
                name = f"{pid:04d}_c{camera}s1_{image:06d}_00.jpg"
                (folder / name).write_bytes(crop(pid, 1 + 10 * camera + image))
