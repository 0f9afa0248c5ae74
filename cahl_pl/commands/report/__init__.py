"""The page of a run: what it left in its folder, curves, episodes, and the page itself."""
