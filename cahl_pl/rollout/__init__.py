"""Rollouts: plan, execute, score. No learning happens here."""
