"""Losses as pure functions of tensors: those of labels, and those of another network's embeddings."""
