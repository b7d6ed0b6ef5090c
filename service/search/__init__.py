"""Searches and verifications: from query crops to ranked matches."""
