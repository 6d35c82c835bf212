"""The components that ship with SuperVM, one folder a role."""
