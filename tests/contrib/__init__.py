"""Tests of `scrapy_supabase.contrib`."""
