"""What others have written, measured and shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels_ws4redis.protocol.texts import escaped, is_longer, reason_of, shown


@given(st.text())
def test_what_is_shown_is_one_line(text: str) -> None:
    line = escaped(text)
    assert line.isprintable()
    assert len(line) < 6000
    if text.isprintable() and len(text) <= 200 and "session:" not in text:
        assert shown(text) == f"'{text}'"


def test_what_is_long_is_cut_and_its_length_told() -> None:
    assert shown("x" * 1_000_000) == f"'{'x' * 200}… (999800 more characters)'"


@pytest.mark.parametrize(
    "text", ["a\nERROR b", "a\r\nb", "a\x1b[2Jb", "a\u2028b", "a\x85b", "\ud800"]
)
def test_nothing_moves_the_cursor(text: str) -> None:
    """Line ends of every kind, escape sequences, and half of a surrogate pair are spelt out."""
    assert "\\" in shown(text)
    assert reason_of(ValueError(text)).isprintable()


@pytest.mark.parametrize(
    "name",
    [
        "session:s3cr3t:chat",
        "demo:session:s3cr3t:chat",
        "{session:s3cr3t:chat}:history",
        "session:s3cr3t",
    ],
)
def test_nobody_finds_the_key_of_a_session_in_a_log(name: str) -> None:
    """Whoever knows the key can be that visitor; also where a text is cut."""
    assert "s3cr3t" not in shown(name)
    assert "s3cr3t" not in reason_of(ValueError(f"The key {name} is a hash"))
    assert "s3cr" not in escaped(name, limit=name.index("s3cr3t") + 4)


@given(st.text(), st.integers(0, 50))
def test_the_length_is_that_in_utf_8(text: str, limit: int) -> None:
    data = text.encode("utf-8", "surrogatepass")
    assert is_longer(text, limit) == is_longer(data, limit) == (len(data) > limit)
