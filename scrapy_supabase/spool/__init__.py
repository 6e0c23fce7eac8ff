"""Chunks on disk until the server confirms them; rejected rows, recovery of earlier runs, replay."""
