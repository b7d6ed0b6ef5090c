"""Data sets of person crops: readers, splits, batches, augmentation and tensors."""
