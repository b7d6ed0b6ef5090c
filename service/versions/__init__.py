"""Model versions: the registry, the activation, the backfill, the evaluation."""
