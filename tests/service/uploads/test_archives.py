"""What is refused of archives, whatever they say of themselves."""

import io
import lzma
import stat
import struct
import tarfile
import zipfile

import pytest

from archives import packed, tar_of, zip_of
from model.data.folders import HIDDEN, OTHER, SYSTEM
from service.errors import BadArchive
from service.uploads.archives import Archive, Member

KINDS = ["tar", "gz", "bz2", "zip"]


def read(archive: bytes, max_bytes: int = 1 << 20, max_member_bytes: int = 1 << 19) -> list[Member]:
    return list(Archive(io.BytesIO(archive), max_bytes, max_member_bytes).members())


@pytest.mark.parametrize("kind", KINDS)
def test_images_and_manifests_come_out_and_nothing_else(kind: str) -> None:
    members = {
        "gallery.csv": b"path",
        "./a/b.jpg": b"1",
        "c.PNG": b"2",
        "d.txt": b"3",
        "gallery.json": b"{}",
        "embeddings.npy": b"of an export",
        "e/Gallery.CSV": b"4",
        "noend": b"5",
        ".f.jpg": b"6",
        "Thumbs.db": b"7",
        "../not/read\n.txt": b"8",
        "g\\h.jfif": b"9",
        "Icon\r": b"10",
        "__MACOSX/._c.PNG": b"11",
    }
    archive = Archive(io.BytesIO(packed(kind, members)), 1 << 20, 1 << 19)
    assert [(member.name, member.data) for member in archive.members()] == [
        ("gallery.csv", b"path"),
        ("a/b.jpg", b"1"),
        ("c.PNG", b"2"),
        ("e/Gallery.CSV", b"4"),
        ("g/h.jfif", b"9"),
    ]
    assert archive.num_skipped == {HIDDEN: 1, SYSTEM: 3, OTHER: 3}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    [
        "../a.jpg",
        "a/../b.jpg",
        "/etc/a.jpg",
        "C:a.jpg",
        "c:/a.jpg",
        "..\\a.jpg",
        "C:\\a.jpg",
        "a\nb.jpg",
        "x" * 2000 + ".jpg",
    ],
)
def test_names_that_lead_elsewhere_refuse_the_whole(kind: str, name: str) -> None:
    with pytest.raises(BadArchive):
        read(packed(kind, {"good.jpg": b"1", name: b"2"}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_that_is_there_twice_refuses_the_whole(kind: str) -> None:
    with pytest.raises(BadArchive, match="twice"):
        read(packed(kind, {"a/b.jpg": b"1", "a//./b.jpg": b"2"}))


@pytest.mark.parametrize(
    "special", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_in_a_tar_refuse_the_whole(special: bytes) -> None:
    info = tarfile.TarInfo("link.jpg")
    info.type, info.linkname = special, "/etc/passwd"
    with pytest.raises(BadArchive, match=r"link\.jpg"):
        read(tar_of({"a.jpg": b"1"}, info))


def test_links_and_encrypted_members_of_a_zip_refuse_the_whole() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        info = zipfile.ZipInfo("link.jpg")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(BadArchive, match="link"):
        read(file.getvalue())
    encrypted = bytearray(zip_of({"a.jpg": b"1"}))
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(BadArchive, match="encrypted"):
        read(bytes(encrypted))


@pytest.mark.parametrize("kind", KINDS)
def test_more_bytes_than_are_allowed_are_refused_when_they_come_out(kind: str) -> None:
    assert len(read(packed(kind, {"a.jpg": bytes(1000)}), max_member_bytes=1000)) == 1
    with pytest.raises(BadArchive, match="1,000 bytes"):
        read(packed(kind, {"a.jpg": bytes(1001)}), max_member_bytes=1000)
    many = {f"{i}.jpg": bytes(1000) for i in range(11)}
    with pytest.raises(BadArchive, match="10,000 bytes"):
        read(packed(kind, many), max_bytes=10_000)
    assert len(read(packed(kind, many), max_bytes=11_000)) == 11


def test_bombs_are_refused_early() -> None:
    bomb = zip_of({"a.jpg": bytes(50 << 20)})
    assert len(bomb) < 1 << 17
    with pytest.raises(BadArchive, match="bytes"):
        read(bomb)
    lying = bytearray(zip_of({"a.jpg": bytes(2 << 20)}))
    for place in (lying.index(b"PK\x03\x04") + 22, lying.index(b"PK\x01\x02") + 24):
        lying[place : place + 4] = struct.pack("<I", 10)  # it says that it has 10 bytes
    with pytest.raises(BadArchive):
        read(bytes(lying))
    padding = tarfile.TarInfo("text.txt")
    padding.size = 1 << 40
    with pytest.raises(BadArchive, match="bytes"):
        read(padding.tobuf())
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 20 << 20
    with pytest.raises(BadArchive):
        read(packed("gz", {})[:0] + header.tobuf() + bytes(20 << 20))


@pytest.mark.parametrize("kind", KINDS)
def test_a_torn_archive_is_refused_wherever_it_is_torn(kind: str) -> None:
    whole = packed(kind, {f"{i}.jpg": bytes([i]) * 700 for i in range(3)})
    last = len(whole.rstrip(b"\0")) if kind == "tar" else len(whole)
    ends = range(1, last, 97) if kind == "tar" else range(1, last, 5)
    for end in ends:
        with pytest.raises(BadArchive):
            read(whole[:end])


@pytest.mark.parametrize(
    "content", [b"", b"x", b"PK\x03\x04", b"\x1f\x8b", b"BZh9", bytes(100), b"\xff" * 5000]
)
def test_what_is_no_archive_is_refused(content: bytes) -> None:
    with pytest.raises(BadArchive):
        read(content)


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end() -> None:
    whole = bytearray(tar_of({f"{i}.jpg": bytes([i]) * 700 for i in range(20)}))
    whole[10 * (512 + 1024)] ^= 1
    with pytest.raises(BadArchive, match="damaged"):
        read(bytes(whole))
    with pytest.raises(BadArchive, match="damaged"):
        read(tar_of({"a.jpg": b"1"}) + b"x")


def test_what_is_skipped_counts_too_and_zips_have_plain_ways_of_packing_alone() -> None:
    with pytest.raises(BadArchive, match="bytes"):
        read(packed("gz", {f"{i}.txt": bytes(1 << 19) for i in range(20)}))
    for kind in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", kind) as archive:
            archive.writestr("a.jpg", bytes(100))
        with pytest.raises(BadArchive, match="deflate"):
            read(file.getvalue())
    name = tarfile.TarInfo("x")
    header = bytearray(name.tobuf())
    header[0] = 0xE4  # latin-1
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:512]))
    assert read(bytes(header) + bytes(1024)) == []


def test_a_hard_link_has_the_bytes_of_the_member_that_it_names() -> None:
    info = tarfile.TarInfo("b.jpg")
    info.type, info.linkname = tarfile.LNKTYPE, "./a.jpg"
    assert read(tar_of({"a.jpg": b"1"}, info)) == [Member("a.jpg", b"1"), Member("b.jpg", b"", "a.jpg")]


def test_a_name_that_is_not_utf_8_fails_alone() -> None:
    named = tar_of({"M\u00fcller.jpg": b"1", "b.jpg": b"2"})
    archive = Archive(io.BytesIO(named), 1 << 20, 1 << 19)
    assert len(list(archive.members())) == 2
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        for name in ("M\u00fcller.jpg", "b.jpg"):
            tar.addfile(tarfile.TarInfo(name))
    archive = Archive(io.BytesIO(file.getvalue()), 1 << 20, 1 << 19)
    assert [member.name for member in archive.members()] == ["b.jpg"]
    assert archive.failures == [("M\\xfcller.jpg", "its name is not UTF-8; pack it under another name")]


@pytest.mark.parametrize(
    ("content", "kind"),
    [(lzma.compress(b"x"), "xz"), (b"7z\xbc\xaf\x27\x1c", "7z"), (b"\xff\xd8\xff\xe0", "JPEG")],
)
def test_other_kinds_of_files_are_named(content: bytes, kind: str) -> None:
    with pytest.raises(BadArchive, match=kind):
        read(content)
