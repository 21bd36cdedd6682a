"""Two hundred texts on which two tokenizers must agree: prose, code, digits, white space, many scripts.

The same on every machine; the texts of the later half are put together from parts of the earlier one, so
that merges across their borders are tried as well.
"""

from __future__ import annotations

import functools

_PLAIN = (
    "The quick brown fox jumps over the lazy dog.",
    "It's what we've done, isn't it? I'LL say THEY'RE right.",
    "a",
    " ",
    "",
    "\n",
    "Hello,   world  !",
    "tabs\tand\t\ttabs",
    "line\nline\n\nline\n\n\nline",
    "windows\r\nlines\r\n",
    "  two leading spaces",
    "trailing spaces   ",
    "    four\n        eight\n",
    "non\u00a0breaking\u2009thin\u3000wide\u200bzero",
    "UPPER lower MiXeD camelCase snake_case kebab-case",
    "e-mail: someone.else+tag@example.org",
    "https://example.org/path/to?query=1&other=two#part",
    "C:\\Users\\name\\file.txt and /usr/local/bin",
    "Well... -- really?! (yes) [no] {maybe} <or>",
    "100% of $1,234.56 is €999 or £5 or ¥7",
)
_NUMBERS = (
    *("0", "7", "42", "123", "1234", "12345", "123456", "1234567890", "3.14159", "-0.5", "1e-10", "0x1F"),
    *("2024-02-29T12:34:56Z", "1,000,000", "192.168.0.1", "+49 30 123456", "½ ¼ ¾ ⅓", "x² + y³", "Ⅳ Ⅷ"),
    *("٠١٢٣٤٥", "०१२३", "一二三", "1st 2nd 3rd", "10:30pm", "007"),
)
_CODE = (
    "def add(a, b):\n    return a + b\n",
    "for (int i = 0; i < 10; ++i) { sum += a[i]; }",
    'fn main() { println!("{}", 1 + 2); }',
    "const f = async (x) => await g(x ?? 0);",
    "SELECT name, COUNT(*) FROM t WHERE id >= 10 GROUP BY 1;",
    '<div class="a b">text &amp; more</div>',
    '{"key": [1, 2.5, null, true], "other": {"a": "b"}}',
    "if x != y and not (z <= 3):\n\tpass  # comment",
    "#include <stdio.h>\nint main(void){return 0;}",
    "git commit -m 'fix: it' && git push --force-with-lease",
    "^[a-z0-9._%+-]+@[a-z]{2,}$",
    "\\begin{equation} \\frac{a}{b} \\end{equation}",
    "lambda x: x**2 // 3 % 5 ^ ~7 | 8 & 9",
    "'''doc'''\n\"\"\"more\"\"\"\n```code```",
    "x=1;y=2;z=3;;;;",
)
_SCRIPTS = (
    "naïve café, Zürich — “quoted” ‘single’ …",
    "Größe Straße Äpfel ÖL ẞ",
    "Привет, мир! Как дела?",
    "Γειά σου Κόσμε",
    "こんにちは世界。カタカナとひらがな",
    "你好，世界！今天天气很好。",
    "안녕하세요 세계",
    "مرحبا بالعالم",
    "שלום עולם",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "Xin chào thế giới",
    "İstanbul ığüşöç",
    "🙂 👍🏽 👩‍👩‍👧‍👦 🇩🇪 ❤️",
    "e\u0301 e\u0300 n\u0303 versus \u00e9 \u00e8 \u00f1",
    "\u1100\u1161\u11a8 versus \uac01",
    "Å Å ﬁ ﬂ ™ ℃ ㎏ ①",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝒎𝒂𝒕𝒉 𐍈",
    "\u202eright to left\u202c \ufeffmark",
    "a\u0000b \u0007 \u001b[0m \ufffd",
)
_MIXED = (
    " ¼",
    "¼a",
    "a1b2c3",
    "1a",
    "a 1",
    "1 a",
    "１２３",
    "word's",
    "words'",
    "'s",
    " 's",
    "I'm'll",
    "n't",
)
_REPEATED = tuple(f"a{gap}b" for gap in (" " * n for n in (2, 3, 4, 5, 7, 8, 9, 16, 17, 33)))
_LINES = tuple(f"x{gap}y" for gap in ("\n" * 2, "\n" * 5, "\n \n", " \n", "\n ", "\t\n\t", "\r", "\r\r\n"))
_RUNS = tuple(sign * 9 for sign in ".-=*#!?_/\\(){}'\"~+a0")
_COUNT = 200


@functools.cache
def probe_texts() -> tuple[str, ...]:
    """Return the texts, all different."""
    first = (*_PLAIN, *_NUMBERS, *_CODE, *_SCRIPTS, *_MIXED, *_REPEATED, *_LINES, *_RUNS)
    size = len(first)
    joined = [first[i] + first[(7 * i + 3) % size] for i in range(size)]
    return tuple(dict.fromkeys((*first, *joined)))[:_COUNT]
