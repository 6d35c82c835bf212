"""The chain as one node runs it: admission, mempool, the application that consensus drives, queries, events.

`ledger_component` makes the APPLICATION component; what it yields is a `Chain`.
"""
