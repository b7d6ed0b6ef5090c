"""Identities: descriptions, corrections and undo, suggestions, erasure, retention."""
