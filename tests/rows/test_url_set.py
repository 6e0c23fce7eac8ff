"""A set of URLs: equal pages are equal, in 8 bytes each."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st
from w3lib.url import canonicalize_url

from scrapy_supabase.rows.url_set import UrlSet, canonical

PARTS = st.text("abzAZ09-._~/:?#&=%+;@!é ", max_size=12)


@given(PARTS, PARTS)
def test_the_fast_path_changes_nothing(host: str, path: str) -> None:
    """Whatever it takes for canonical is."""
    for url in (f"http://x{host}/{path}", f"https://shop.example/{path}", f"https://{host}{path}"):
        try:
            expected = canonicalize_url(url)
        except ValueError:  # no URL
            continue
        assert canonical(url) == expected


def test_look_ups() -> None:
    """Also of URLs that differ by fragment, order of arguments or escapes only; each counts once."""
    urls = UrlSet()
    urls.add(
        ["https://x.example/a?b=2&a=1", "https://x.example/b", "https://x.example/b#top", "http://x.example/%7e%c3%a9"]
    )
    urls.add(["http://[x"])
    urls.freeze()
    assert len(urls) == 4
    assert "http://[x" in urls
    for same in ("https://x.example/a?a=1&b=2#x", "https://X.example/b", "http://x.example/%7E%C3%A9"):
        assert same in urls
    for other in (
        "https://x.example/a",
        "http://x.example/b",
        "https://x.example/b/",
        "",
        "no url",
        "https://x.example/\ud800",
    ):
        assert other not in urls
    assert "https://x.example/a" not in UrlSet()


def test_memory() -> None:
    """Eight bytes per URL."""
    urls = UrlSet()
    urls.add(f"https://x.example/{number}" for number in range(10_000))
    urls.freeze()
    assert len(urls) == 10_000
    assert sys.getsizeof(urls._hashes) < 90_000
    assert all(f"https://x.example/{number}" in urls for number in range(0, 10_000, 100))
