"""The documentation of the Python that runs it, crawled into Supabase."""
