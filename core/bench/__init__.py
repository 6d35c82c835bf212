"""Benchmarks as commands (`supervm bench NAME`); each ends with its oracle and fails when it breaks."""
