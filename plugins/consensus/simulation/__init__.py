"""The simulator: whole validators on a seeded clock, network and disk (`supervm simulate`).

One seed is one run, and the same seed is the same run, byte for byte: `plan` draws what happens, `turns`
makes Trio and the threads repeatable, `network` and `disk` are virtual, `node` opens the real components over
them, `clients` use them, `attacks` are what hostile validators send, `oracles` judge, `world` runs it, and
`search` tries seeds and makes a failing one small.
"""
