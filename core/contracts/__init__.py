"""The contracts between roles: one module a role, a Protocol with its value types, errors and promises."""
