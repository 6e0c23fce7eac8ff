"""Checks of `scrapy supabase check`: settings, server, tables and item classes. They store nothing."""
