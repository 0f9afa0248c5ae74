"""Output of runs, its location, and the resuming of runs."""
