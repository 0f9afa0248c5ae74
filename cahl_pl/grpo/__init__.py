"""GRPO for two roles: comparison, selection of training data, loss."""
