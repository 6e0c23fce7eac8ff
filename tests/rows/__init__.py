"""Tests of rows: values, keys, building."""
