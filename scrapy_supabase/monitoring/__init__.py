"""What happened in a run: stats, the run record, the ledger of runs, redaction."""
