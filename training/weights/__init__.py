"""Weights: initial weights, teachers, foreign networks, and transfer to and from a service."""
