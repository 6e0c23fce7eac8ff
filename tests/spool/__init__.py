"""Tests of the spool: recovery and replay."""
