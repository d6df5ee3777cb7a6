"""The `deltaic` command: all of it as a person uses it."""
