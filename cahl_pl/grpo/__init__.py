"""GRPO for two roles: what is compared, what is trained on, the loss."""
