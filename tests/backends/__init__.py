"""Tests of backends: contract, answers, connections."""
