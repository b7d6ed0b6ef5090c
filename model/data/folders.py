"""The suffixes of image files, and the name of the label file beside them."""

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp"})
"""Suffixes of image files, in lower case."""

MANIFEST = "gallery.csv"
"""The file of an archive or an exported gallery that has a row for each crop."""
