"""Tests of the local Supabase."""
