"""Tests of `scrapy supabase check`."""
