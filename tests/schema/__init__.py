"""Tests of what is known of tables."""
