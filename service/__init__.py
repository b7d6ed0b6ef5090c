"""The gallery service: the only package that knows HTTP, SQL and FAISS."""
