"""The engine: trains a network by a recipe, embeds data sets, and evaluates the embeddings."""
