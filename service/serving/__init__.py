"""What one process holds in memory: the active network, its index, and who may use the processor next."""
