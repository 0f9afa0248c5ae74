"""What a run writes, where, and how it goes on."""
