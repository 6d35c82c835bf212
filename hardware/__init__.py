"""What machine this is, which tier that makes it, and the C fast paths it can run."""
