"""Strategies of texts: arbitrary Unicode, and pieces at which tokenizers are known to disagree."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

PIECES: tuple[str, ...] = (
    *("a", "A", "1", "12", "1234", " ", "  ", "\n", "\n\n", "\r\n", "\t", ".", ",", "!", "'s", "'LL", "n't"),
    *(" ¼", "½", "²", "Ⅳ", "٣", "१", "一", "\u00a0", "\u2009", "\u3000", "\u200b", "\ufeff", "\u200d"),
    *(
        "the",
        " the",
        "The",
        " world",
        "ing",
        "def f(x):",
        "    return",
        "_",
        "-",
        "--",
        "...",
        "==",
        "{}",
        "//",
    ),
    *("é", "e\u0301", "ß", "Ω", "й", "中", "日本", "한", "ا", "ש", "न", "ไ", "🙂", "👍🏽", "👩‍👧", "🇩🇪", "𝔘"),
    *("<", "|", ">", "<|", "|>", "</", "[", "]", "[/", "\\", '"', "`", "~", "€", "™", "\u0000", "\u0007"),
)

WORDS: tuple[str, ...] = (
    *(
        "The capital of France is",
        "What is 2 + 2?",
        "Once upon a time",
        "def add(a, b):",
        "x",
        "one two three",
    ),
    *("The opposite of hot is", "Größe", "日本", "🙂", "12 + 30 =", "Answer:", "import", "She said"),
)


def characters() -> SearchStrategy[str]:
    """Return every character that Unicode assigns: what one library does not know yet proves nothing."""
    from hypothesis import strategies as st

    return st.characters(exclude_categories=("Cs", "Cn", "Co"))


def texts(extra: Collection[str] = ()) -> SearchStrategy[str]:
    """Return short and long texts of pieces, arbitrary characters among them; ``extra`` adds pieces."""
    from hypothesis import strategies as st

    pieces = [st.sampled_from(PIECES), st.text(characters(), min_size=1, max_size=4)]
    if extra:
        pieces.append(st.sampled_from(sorted(extra)))
    mixed = st.lists(st.one_of(pieces), min_size=1, max_size=8).map("".join)
    # Rules differ where two pieces meet: long texts try many such places at the price of one.
    dense = st.lists(st.sampled_from([*PIECES, *sorted(extra)]), min_size=20, max_size=40).map("".join)
    return st.one_of(st.text(characters(), min_size=1, max_size=12), mixed, dense)


def prompts(extra: Sequence[str] = ()) -> SearchStrategy[str]:
    """Return short prompts for a model to continue: words it may know, sometimes strange text."""
    from hypothesis import strategies as st

    words = st.lists(st.sampled_from([*WORDS, *extra]), min_size=1, max_size=3).map(" ".join)
    return st.one_of(words, words, st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join))


def odd() -> SearchStrategy[str]:
    """Return prompts that programs tend to stumble over."""
    from hypothesis import strategies as st

    blank = st.sampled_from(("", " ", "\n", "\t\t", "\u00a0", "\u200b", "\ufeff"))
    strange = (
        "\u0000",
        "a\u0000b",
        "\u001b[31m",
        "\ufffd",
        "🙂",
        "👩‍👩‍👧‍👦",
        "🇩🇪",
        "\u202eabc\u202c",
        "مرحبا",
        "שלום",
        "e\u0301" * 9,
    )
    return st.one_of(st.sampled_from(strange), blank, texts())
