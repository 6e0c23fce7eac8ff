"""Chunks on disk until they are confirmed; rejected rows, recovery, replay."""
