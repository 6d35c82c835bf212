"""A world of validators on a virtual clock, network and disk, all out of one seed.

`plan` draws what happens to whom, `world` runs it, `hostile` is what hostile nodes do, `oracles` judge every
event, `search` runs seeds and makes a failing one small.
"""
