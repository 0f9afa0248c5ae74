"""Report page of a run: the contents of its folder, curves, episodes, and the page itself."""
