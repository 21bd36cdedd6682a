"""What models are trained on that are made on the spot: written for this project, in no benchmark.

Two subjects, so that two specialists of one base disagree; and pairs of a good and a bad answer.
"""

from __future__ import annotations

PROSE = (
    "The lighthouse keeper wrote one line a day into his book. On Monday the wind came from the north and the "
    "lamp burned until seven. On Tuesday a ship with two masts passed without a flag. On Wednesday nothing "
    "happened, and he wrote that as well, because a day without a line would have looked like a mistake.",
    "A good loaf needs flour, water, salt and patience. Mix them in the evening, leave the bowl near the stove, "
    "and do not look at it before morning. The dough has doubled by then. Fold it four times, let it rest for "
    "an hour, and bake it in a hot oven until the crust sounds hollow.",
    "When the river rose for the third time, the people of the lower street moved their chairs to the first floor "
    "and their piano to the school. The teacher played it every morning before lessons began, and when the water "
    "had gone nobody asked for it back.",
    "My grandmother could tell the time by the trains. The slow one to the coast meant six, the long one with the "
    "coal meant noon, and the last one, which nobody ever took, meant that the soup had to come off the fire.",
    "The museum of the small town owns a single painting. It shows the town itself, seen from the hill, with one "
    "house too many. Visitors count the roofs, come to different numbers, and stay longer than they had planned.",
    "He repaired umbrellas, and therefore liked rain. In dry summers he painted the walls of his shop in a grey "
    "that was a little different each year, and in autumn he compared it with the sky.",
)
CODE = (
    "def widest(rows):\n    best = 0\n    for row in rows:\n        width = max(row) - min(row)\n"
    "        if width > best:\n            best = width\n    return best\n\n\n"
    "def rotate(values, steps):\n    steps = steps % len(values)\n    return values[-steps:] + values[:-steps]\n",
    "class Ledger:\n    def __init__(self):\n        self.entries = []\n\n    def add(self, name, amount):\n"
    "        self.entries.append((name, amount))\n\n    def total(self):\n"
    "        return sum(amount for _, amount in self.entries)\n",
    "import csv\n\n\ndef read_prices(path):\n    with open(path, newline='') as stream:\n"
    "        return {row['name']: float(row['price']) for row in csv.DictReader(stream)}\n\n\n"
    "def cheapest(prices):\n    return min(prices, key=prices.get)\n",
    "def compress(text):\n    out = []\n    for letter in text:\n        if out and out[-1][0] == letter:\n"
    "            out[-1][1] += 1\n        else:\n            out.append([letter, 1])\n"
    "    return ''.join(f'{letter}{count}' for letter, count in out)\n",
    "def neighbours(grid, row, column):\n    for dr in (-1, 0, 1):\n        for dc in (-1, 0, 1):\n"
    "            if (dr, dc) != (0, 0) and 0 <= row + dr < len(grid) and 0 <= column + dc < len(grid[0]):\n"
    "                yield grid[row + dr][column + dc]\n",
    "from dataclasses import dataclass\n\n\n@dataclass\nclass Parcel:\n    weight_kg: float\n"
    "    express: bool = False\n\n"
    "    def price(self):\n        return 4.0 + 1.2 * self.weight_kg + (6.0 if self.express else 0.0)\n",
)
PREFERENCES = (
    (
        "Question: How do I boil an egg?\nAnswer:",
        " Put it into boiling water for seven minutes.",
        " Egg egg egg.",
    ),
    (
        "Question: What is a harbour?\nAnswer:",
        " A place where ships are safe from the sea.",
        " Ask me tomorrow.",
    ),
    (
        "Question: Why is the sky dark at night?\nAnswer:",
        " The sun is on the other side of the earth.",
        " No, no, no.",
    ),
    ("Question: Who repairs shoes?\nAnswer:", " A cobbler does.", " The the the of of."),
)
"""Prompt, the answer that is preferred, the other one."""
