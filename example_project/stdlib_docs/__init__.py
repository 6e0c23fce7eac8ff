"""Example project: crawl the documentation of the running Python into Supabase."""
