"""Model versions: registry, activation, backfill and evaluation."""
