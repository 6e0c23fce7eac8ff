"""Monitoring of a run: counters, stats, log, run record, ledger of runs, redaction."""
