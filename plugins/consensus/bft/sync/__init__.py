"""Catching up from peers, as a machine without I/O (CONS-61, 62, 64, 67).

`machine.BlockSync` asks peers for final blocks and their batches, has certificates verified against the set
of their epoch, and gives the driver blocks in order. `rejoining.Rejoin` keeps a validator that lost its log
silent for as long as it may have voted.
"""
