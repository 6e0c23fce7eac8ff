"""REST gateway: a process that answers supabase-py's requests as PostgREST 14 does."""
