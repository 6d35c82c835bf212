"""The Trio side of `bft`: disk, network, time and the application, joined to the machines that decide.

One module a concern: `journal` (records on disk), `kept` (what is known of committed blocks), `posting` and
`receiving` (the network), `checking` (signatures), `accusing` and `contesting` (what peers say of others),
`timers`, `asking`, `answering` and `waiting_questions` (what is missed), `executing` (final blocks),
`waiting` (what a leader may place), `core` (the machines and their outputs).
"""
