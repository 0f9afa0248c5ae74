"""Row formats of other programs and data sets: one module each, and one line of the table in `table`."""
