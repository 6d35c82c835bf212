"""Epochs: how one closes, what its blocks hold beside batches, and how the next begins (CONS-50..55, 70)."""
