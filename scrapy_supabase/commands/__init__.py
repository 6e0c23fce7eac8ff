"""`scrapy supabase …`: the command line of the package."""
