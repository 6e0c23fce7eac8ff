"""The project that the how-to pages of the docs speak of."""
