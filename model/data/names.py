"""Names that people choose, in one Unicode form: identities, cameras, tracks, attributes and files."""

import unicodedata


def normalise_name(name: str) -> str:
    """Return a name in Normalisation Form C, in which an accented letter is one character.

    macOS writes file names in another form, so without this the two spellings of one name are two people.

    >>> len(normalise_name("Jose" + chr(0x301)))
    4
    """
    return unicodedata.normalize("NFC", name)


def unicode_forms(name: str) -> tuple[str, ...]:
    """Return a name as it stands, composed, and decomposed as macOS writes file names."""
    return name, normalise_name(name), unicodedata.normalize("NFD", name)


def fold_name(name: str) -> str:
    """Return what two spellings of a name have in common: the other Unicode form, the other case of letters.

    >>> fold_name("JOSE" + chr(0x301)) == fold_name("josé")
    True
    """
    return normalise_name(normalise_name(name).casefold())


def is_text(name: str) -> bool:
    """Return whether a name of a file is text: a name that is not UTF-8 holds lone surrogates.

    >>> is_text("Müller"), is_text(b"M\\xfcller".decode(errors="surrogateescape"))
    (True, False)
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def show_name(name: str) -> str:
    """Return a name of a file for a message; bytes that are not UTF-8 are written as in `M\\xfcller`.

    >>> show_name(b"M\\xfcller".decode(errors="surrogateescape"))
    'M\\\\xfcller'
    """
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
