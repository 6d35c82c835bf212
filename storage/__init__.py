"""Ledger storage above a key-value backend: state, blocks, proofs, recovery."""
