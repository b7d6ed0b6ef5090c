"""Who did what: one sealed row for each request that changes something or searches."""
