"""A Supabase on this machine: a real PostgreSQL and the REST API in front of it."""
