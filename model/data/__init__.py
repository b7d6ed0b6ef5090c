"""Readers of data that service and training share: images, labels, folders, Market-1501's file names."""
