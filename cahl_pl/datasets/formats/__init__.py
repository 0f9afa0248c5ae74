"""Formats of rows that other programs and data sets have: one module each, and one line of the table in `table`."""
