"""Tests of the delivery of chunks."""
