"""The frozen base and its two adapters: load, pack, run, score."""
