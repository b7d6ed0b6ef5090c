"""An index of embeddings with filters, on numpy and FAISS; it imports nothing else of ours."""
