"""What `scrapy supabase check` finds out: settings, server, tables, item classes. It stores nothing."""
