"""State in the memory of one process: the active network, its index, and the order of work."""
