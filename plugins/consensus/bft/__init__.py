"""Consensus of many: certified batches, FAST effects, and ordering by Simplex (component `bft`).

Everything that decides is a state machine without I/O: it takes an event and the time, and gives outputs
(`events`). The same events give the same outputs, byte for byte. What is decided and why it is safe is in
docs/explanation/consensus.md.
"""
