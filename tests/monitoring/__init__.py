"""Tests of stats, run record and ledger."""
