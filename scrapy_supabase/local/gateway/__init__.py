"""The REST gateway: answers what supabase-py asks of PostgREST 14, in a process of its own."""
