"""The metadata of every table; whoever works on the whole schema imports it, and misses no table."""

from service.store.key_tables import Key

METADATA = Key.metadata
