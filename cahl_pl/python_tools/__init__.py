"""User-written functions as tools: their choice, their descriptions for a model, their arguments and results.

Nothing here imports torch, since the workers of a sandbox use it too.
"""
