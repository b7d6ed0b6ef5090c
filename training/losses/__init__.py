"""Losses as pure functions of tensors: some compare embeddings by label, some with another network's."""
