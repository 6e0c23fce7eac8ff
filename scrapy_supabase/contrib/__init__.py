"""For other people's tools, each of them optional."""
