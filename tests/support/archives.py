"""Archives of any kind, ordinary and hostile, made in memory."""

import bz2
import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping


def tar_of(members: Mapping[str, bytes], *special: tarfile.TarInfo) -> bytes:
    """Pack members into a tar, with special entries such as links added unchanged."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in special:
            archive.addfile(info)
    return file.getvalue()


def zip_of(members: Mapping[str, bytes]) -> bytes:
    """Pack members into a zip."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def packed(kind: str, members: Mapping[str, bytes]) -> bytes:
    """Pack members as tar, gz, bz2 or zip."""
    if kind == "zip":
        return zip_of(members)
    packers: dict[str, Callable[[bytes], bytes]] = {
        "tar": bytes,
        "gz": gzip.compress,
        "bz2": bz2.compress,
    }
    return packers[kind](tar_of(members))
