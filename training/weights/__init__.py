"""Weights: initial ones, those of teachers and foreign networks, and the way to and from a service."""
