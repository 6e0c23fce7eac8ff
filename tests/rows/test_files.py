"""Row files: encodings, delimiters, headers."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from scrapy_supabase.rows.csv_files import sniff_delimiter
from scrapy_supabase.rows.file_parts import FileError
from scrapy_supabase.rows.files import RowFile


def read(path: Path, data: bytes, **how: Any) -> list[Any]:
    """Write a file and read its rows."""
    path.write_bytes(data)
    with closing(RowFile(str(path), **how)) as file:
        return list(file)


@pytest.mark.parametrize(
    ("sample", "delimiter"),
    [
        ("a,b\n1,2\n", ","),
        ("a;b\n1,5;2\n", ";"),
        ("a;b,c;d\n1;2;3\n", ";"),
        ("a\tb\n", "\t"),
        ("a|b|c\n1|2|3\n4|5", "|"),
        ("title\na;b\nc|d\n", ","),
        ("who; what\nx\ny\n", ","),  # one column
        ('"a;b",c\n1,2\n', ","),
        ("", ","),
    ],
)
def test_the_delimiter_is_recognised(sample: str, delimiter: str) -> None:
    """It splits the header and the next line into as many cells; without another one it is a comma."""
    assert sniff_delimiter(sample) == delimiter


def test_an_explicit_delimiter_counts(tmp_path: Path) -> None:
    """Also for a file whose name says tab."""
    assert read(tmp_path / "a.csv", b"a;b\n1;2\n", delimiter=",") == [{"a;b": "1;2"}]
    assert read(tmp_path / "a.tsv", b"a:b\n1:2\n", delimiter=":") == [{"a": "1", "b": "2"}]
    assert read(tmp_path / "a.csv", b"a;b\tc\n1;2\t3\n", delimiter="tab") == [{"a;b": "1;2", "c": "3"}]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json"])
def test_encodings_are_recognised(tmp_path: Path, name: str, encoding: str) -> None:
    """UTF-16 also without a byte order mark."""
    texts = {
        "a.csv": "id,a\n1,é\n",
        "a.tsv": "id\ta\n1\té\n",
        "a.jsonl": '{"id": "1", "a": "é"}\n',
        "a.json": '[{"id": "1",\n"a": "é"}]',
    }
    assert read(tmp_path / name, texts[name].encode(encoding)) == [{"id": "1", "a": "é"}]


def test_an_explicit_encoding_counts(tmp_path: Path) -> None:
    """Whatever the file looks like."""
    assert read(tmp_path / "a.csv", "a\né\n".encode("latin-1"), encoding="latin-1") == [{"a": "é"}]


def test_a_wide_file_in_blocks(tmp_path: Path) -> None:
    """A character may be cut by the end of a block."""
    lines = "".join(f'{{"id": {number}, "a": "{"é" * (number % 300)}"}}\n' for number in range(2000))
    rows = read(tmp_path / "a.jsonl", lines.encode("utf-16"))
    assert [(row["id"], len(row["a"])) for row in rows] == [(number, number % 300) for number in range(2000)]


def test_lines_longer_than_a_block(tmp_path: Path) -> None:
    """And one without its end."""
    rows = read(tmp_path / "a.jsonl", b'{"a": "%b"}\n\n{"a": "%b"}' % (b"x" * 200_000, b"y" * 200_000))
    assert [len(row["a"]) for row in rows] == [200_000] * 2


def test_columns_without_a_name_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As pandas writes its index; a warning names them."""
    assert read(tmp_path / "a.csv", b",id, ,n\n0,1,x,2\n") == [{"id": "1", "n": "2"}]
    assert "a.csv: column 1, 3 has no name" in caplog.text


@pytest.mark.parametrize("header", [b" sku,a", b"a,sku "])
def test_blanks_around_a_name(tmp_path: Path, header: bytes) -> None:
    """The remedy has the name without them."""
    with pytest.raises(FileError, match="Did you mean 'sku'"):
        read(tmp_path / "a.csv", header + b"\n1,2\n")
