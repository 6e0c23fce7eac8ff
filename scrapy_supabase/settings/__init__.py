"""The configuration: the only reader of settings and environment."""
