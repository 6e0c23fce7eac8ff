"""What talks to a server: one protocol, one module a server."""
