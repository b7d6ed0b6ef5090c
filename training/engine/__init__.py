"""The engine: trains a network by a recipe, embeds data sets with one, and evaluates the embeddings."""
