"""Rows F9, F10 and H12: names in archives as people's programs write them, and the number of members."""

import io
import struct
import zipfile
from typing import IO, cast

import pytest

from archives import packed, zip_of
from service.errors import BadArchive
from service.uploads.archives import Archive, Member
from service.uploads.zips import GuardedZip

KINDS = ["tar", "gz", "bz2", "zip"]


def read(archive: bytes) -> list[Member]:
    return list(Archive(io.BytesIO(archive), 1 << 20, 1 << 19).members())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    ["Screen\u202fshot.jpg", "\u0646\u06cc\u200c.jpg", "\u3000.jpg", "\U0001f468\u200d.jpg", "a\xa0b.jpg"],
)
def test_f9_honest_names_are_taken(kind: str, name: str) -> None:
    assert [member.name for member in read(packed(kind, {name: b"1"}))] == [name]


def zip_with_names(*names: bytes) -> bytes:
    """Pack members whose names are these bytes, without a note of their encoding."""
    placeholders = [b"x" * len(name) for name in names]
    archive = zip_of({name.decode() + ".jpg": b"1" for name in placeholders})
    for placeholder, name in zip(placeholders, names, strict=True):
        archive = archive.replace(placeholder + b".jpg", name + b".jpg")
    return archive


def test_f10_names_of_a_zip_are_read_as_utf_8_and_otherwise_there_is_a_warning() -> None:
    archive = Archive(
        io.BytesIO(zip_with_names("J\u00fcrgen".encode(), "\u738b".encode("gbk"))), 1 << 20, 1 << 19
    )
    assert [member.name for member in archive.members()] == [
        "J\u00fcrgen.jpg",
        "\u738b".encode("gbk").decode("cp437") + ".jpg",
    ]
    assert archive.guessed_names == ["\u738b".encode("gbk").decode("cp437") + ".jpg"]


@pytest.mark.parametrize("kind", KINDS)
def test_f10_a_backslash_is_a_slash(kind: str) -> None:
    assert [member.name for member in read(packed(kind, {"person-1\\a.jpg": b"1"}))] == ["person-1/a.jpg"]


def list_names(content: bytes, max_members: int) -> list[str]:
    guarded = cast(IO[bytes], GuardedZip(io.BytesIO(content), max_members))
    return zipfile.ZipFile(guarded).namelist()


def test_h12_a_zip_lists_no_more_members_than_are_read() -> None:
    whole = zip_of({f"{number}.txt": b"" for number in range(10)})
    assert list_names(whole, 10) == [f"{number}.txt" for number in range(10)]
    with pytest.raises(BadArchive, match="more than 9 members"):
        list_names(whole, 9)
    end = whole.index(b"PK\x05\x06")
    entries = whole[whole.index(b"PK\x01\x02") : end]
    record = struct.pack(
        "<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 10, 10, len(entries), end - len(entries)
    )
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
    small = whole[end : end + 12] + struct.pack("<LLH", 0, 0, 0)
    zip64 = whole[:end] + record + locator + small
    assert len(zipfile.ZipFile(io.BytesIO(zip64)).infolist()) == 10
    with pytest.raises(BadArchive, match="more than 9 members"):
        list_names(zip64, 9)
