"""The ledger's values: what they hold, their one encoding, and their digests.

Everything here is pure. Bad input raises `supervm.types.errors.InvalidInput` and nothing else. The
formats are described byte by byte in `docs/reference/encoding.md`.
"""
