"""Small archives that would cost the standard library minutes or gigabytes."""

import bz2
import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable

import pytest

from service.errors import BadArchive
from service.uploads.archives import FREE_BYTES, MAX_MEMBERS, MAX_RATIO, Archive, Member

MAX_BYTES = 1 << 32
MANY_DIGITS = b"1" * 4_000


def members_of(archive: bytes) -> list[Member]:
    return list(Archive(io.BytesIO(archive), MAX_BYTES, 10 << 20).members())


def header(name: str, size: int, kind: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.USTAR_FORMAT)


def block(content: bytes) -> bytes:
    return content + bytes(-len(content) % tarfile.BLOCKSIZE)


def tar_with(kind: bytes, content: bytes, times: int = 1) -> bytes:
    """Return a tar whose empty member has a further header of a kind, so many times."""
    one = header("before", len(content), kind) + block(content) + header("notes.txt", 0, tarfile.REGTYPE)
    return one * times + bytes(2 * tarfile.BLOCKSIZE)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
def test_q_a_header_of_digits_is_refused_before_it_is_parsed(
    kind: bytes, pack: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(BadArchive, match="a number of 1,000 digits"):
        members_of(pack(tar_with(kind, MANY_DIGITS)))


def test_q_digits_in_a_crop_are_no_header() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in ("a.jpg", "notes.txt", "b.jpg"):
            info = tarfile.TarInfo(name)
            info.size = len(MANY_DIGITS)
            tar.addfile(info, io.BytesIO(MANY_DIGITS))
    assert [member.data for member in members_of(gzip.compress(file.getvalue()))] == [MANY_DIGITS] * 2


def packed_zeros(num_bytes: int) -> bytes:
    packer = bz2.BZ2Compressor()
    zeros = bytes(1 << 20)
    packed = [packer.compress(header("notes.txt", num_bytes, tarfile.REGTYPE))]
    packed += [packer.compress(zeros) for _ in range(num_bytes >> 20)]
    return b"".join([*packed, packer.compress(bytes(1024)), packer.flush()])


def zip_of_zeros() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(8):
            archive.writestr(f"{number}.jpg", bytes(10 << 20))
    return file.getvalue()


@pytest.mark.parametrize(
    "pack",
    [
        lambda: packed_zeros(256 << 20),
        lambda: bz2.compress(tar_with(tarfile.GNUTYPE_LONGNAME, bytes(1_000_000), 60)),
        lambda: bz2.compress(tar_with(tarfile.XHDTYPE, b"999999 a=" + b"x" * 999_989 + b"\n", 60)),
        zip_of_zeros,
    ],
    ids=["a skipped member", "long names", "pax headers", "images in a zip"],
)
def test_q_an_archive_that_unpacks_to_many_times_its_size_is_refused(pack: Callable[[], bytes]) -> None:
    archive = pack()
    with pytest.raises(BadArchive, match=r"bytes when unpacked, (many|100) times its size"):
        members_of(archive)


def test_q_an_archive_may_unpack_to_some_times_its_size() -> None:
    packed = packed_zeros(FREE_BYTES - (1 << 20))
    assert len(packed) * MAX_RATIO < FREE_BYTES
    assert members_of(packed) == []


def zip_entry(number: int) -> bytes:
    name = b"%d.txt" % number
    return struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, *[0] * 4, 0, 0, 0, len(name), *[0] * 6) + name


@pytest.mark.parametrize("offset", [0, int.from_bytes(b"PK\5\6", "little")])
def test_q_a_list_of_members_is_judged_where_it_is_read(offset: int) -> None:
    listed = b"".join(zip_entry(number) for number in range(MAX_MEMBERS + 1))
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(listed), offset, 0)
    archive = Archive(io.BytesIO(b"PK\3\4" + bytes(26) + listed + end), MAX_BYTES, 1 << 20)
    with pytest.raises(BadArchive, match="more than 200,000 members"):
        list(archive.members())
    assert archive.num_skipped.total() == 0, "no member was looked at"
