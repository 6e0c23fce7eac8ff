from pathlib import Path

exec(Path(__file__).with_name("spider1.py").read_text())


class Again(Board):  # noqa: F821
    name = "again"
    jobs = range(10, 105)


del Board  # noqa: F821
