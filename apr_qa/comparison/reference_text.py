"""Texts whose next-token distributions are compared: written for this project, so nobody trained on them.

Prose, code, numbers and several scripts, because a defect may show in one kind of text alone; the long one
reaches positions where rotary scaling and sliding windows work.
"""

from __future__ import annotations

import functools

SHORT = """The ferry to the island leaves at 7:45 and costs 12.50 euros; children under six travel free of charge.
On the deck an old man counts his change aloud: "two, four, six, eight, ten."

def fare(age: int, price: float = 12.5) -> float:
    return 0.0 if age < 6 else price

Größe und Gewicht: 3 kg. Привет! 東京は晴れです。 🙂 x = 17 * 3 - 9  # 42
"""
"""About 120 tokens in most vocabularies."""

_PARAGRAPHS = (
    "The clock in the kitchen had stopped at ten past four, and nobody in the house could agree on when that "
    "had happened. Marta said it was on Sunday, because she remembered the bread. Her brother said it could not "
    "have been Sunday, because on Sunday the clock had still been five minutes fast.",
    "So they wrote down what they knew. First, the battery was changed in March. Second, the clock gained one "
    "minute a week. Third, somebody had moved the shelf. If the shelf was moved after the battery was changed, "
    "then the clock must have been taken from the wall at least twice.",
    "for week in range(1, 53):\n    gained = week * 1.0\n    if gained >= 5:\n        print(week, gained)\n        "
    "break",
    "The table that they made had three columns: date, time shown, time measured. 2 March, 08:00, 08:00. 9 March, "
    "08:01, 08:00. 16 March, 08:02, 08:00. After that the entries were in another hand, and much harder to read.",
    "Their grandfather, who had repaired watches for thirty-one years, listened to all of it and laughed. A clock "
    "that gains a minute every week, he said, is a good clock in a warm room. Put it next to the window and it "
    "will lose two. You have not found out when it stopped; you have found out that the stove was moved.",
    "Später fragte er leise: „Und wer hat den Ofen verschoben?“ Niemand antwortete. Кто-то закрыл дверь. "
    "時計は静かだった。",
    "In the end they did what they should have done at the beginning. They took the clock down, opened the back, "
    "and looked. Inside there was a slip of paper, folded four times, on which somebody had written in pencil: "
    "the battery is in the drawer, the drawer is locked, and the key is where the clock was.",
)
_REPEATED = (
    "Number {n}: the next morning the clock showed {hour}:{minute:02d}, which was {word} than the day before; "
    "they noted it, said nothing, and went to work."
)
_DAYS = 8
_WORDS = ("later", "earlier", "no different")


@functools.cache
def long_text() -> str:
    """Return a text of 600 to 900 tokens in most vocabularies that ends far from where it begins."""
    days = [
        _REPEATED.format(n=n, hour=4 + n % 7, minute=(n * 13) % 60, word=_WORDS[n % 3])
        for n in range(1, _DAYS + 1)
    ]
    return "\n\n".join([*_PARAGRAPHS, *days, "And the key, of course, was behind the shelf all along."])
