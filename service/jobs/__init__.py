"""Jobs: work that outlives its request, and the threads that do it."""
