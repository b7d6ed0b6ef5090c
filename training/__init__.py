"""Trains and evaluates checkpoints; imports model, never service."""
