from pathlib import Path

exec(Path(__file__).with_name("spider1.py").read_text())


class Again(Shop):  # noqa: F821
    name = "again"
    price, reviews, mistakes = 20, 2, False


del Shop  # noqa: F821
