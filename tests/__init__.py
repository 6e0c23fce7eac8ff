"""The tests: against a real PostgreSQL through a real HTTP server."""
