"""The simulator: that a seed is one run, that its parts do what they say, and that it finds planted bugs."""
