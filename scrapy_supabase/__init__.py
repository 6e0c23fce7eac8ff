"""The public names of scrapy-supabase."""

__all__: list[str] = []
