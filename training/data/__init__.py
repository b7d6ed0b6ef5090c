"""Data sets of person crops: read from their folders, split, drawn in batches, augmented, as tensors."""
