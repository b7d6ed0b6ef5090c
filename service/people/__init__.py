"""Identities: descriptions, corrections, suggestions, erasure, retention."""
