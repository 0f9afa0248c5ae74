"""Functions that people have written as tools: which ones, what a model reads of them, how values go in and come out.

Nothing here imports torch, since the workers of a sandbox use it too.
"""
