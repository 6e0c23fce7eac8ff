"""Clients of a server: one protocol, and its implementations over the REST API and a database connection."""
