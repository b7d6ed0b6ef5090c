"""Networks that turn person crops into embeddings, and what travels with them."""
