"""Makes and judges checkpoints; imports model, never service."""
