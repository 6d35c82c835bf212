"""Execution's tests. `builders` is for other test folders too."""
