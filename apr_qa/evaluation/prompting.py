"""Questions to a model about a coding problem, in four strategies, and as a text to continue.

standard asks for code only; few-shot shows three solved problems first; scot asks for a structured plan (inputs,
outputs, sequence, branches, loops) before the code; cgo asks for the auxiliary functions before the main one.
"""

from __future__ import annotations

from apr_qa.evaluation.problems import Problem

STRATEGIES = ("standard", "few-shot", "scot", "cgo")
CONTINUED = ("standard", "few-shot")
"""Strategies that also work on a model which only continues text."""

PROGRAM_STOPS = ("\ndef ", "\nclass ", "\n#", "\nif __name__", "\nprint(", "\nassert ", "\n```", "\n@")
"""Where the continuation of a function has ended: something begins at the margin."""
SENTENCE_STOPS = ('\n"""', "\nassert ", "\nif __name__", "\nprint(", "\n```")

_SOLVED = (
    (
        "Return the words of a text that are longer than n letters, in their order.",
        "long_words",
        "assert long_words('to be or not', 2) == ['not']",
        "def long_words(text, n):\n    return [word for word in text.split() if len(word) > n]\n",
    ),
    (
        "Say whether a list of numbers never falls from one element to the next.",
        "never_falls",
        "assert never_falls([1, 2, 2, 5]) == True",
        "def never_falls(numbers):\n    return all(a <= b for a, b in zip(numbers, numbers[1:]))\n",
    ),
    (
        "Count how often each character occurs in a text.",
        "occurrences",
        "assert occurrences('aba') == {'a': 2, 'b': 1}",
        "def occurrences(text):\n    counts = {}\n    for character in text:\n"
        "        counts[character] = counts.get(character, 0) + 1\n    return counts\n",
    ),
)
"""Sentence, name, assertion, solution."""

_ORDERS = {
    "standard": "Answer with the complete Python code in one code block, and with nothing else.",
    "few-shot": "Answer with the complete Python code in one code block, and with nothing else.",
    "scot": "First write a structured plan in four steps: 1. inputs and outputs; 2. the sequence of operations; "
    "3. branches and special cases; 4. loops. Then write the complete Python code in one code block.",
    "cgo": "First name the auxiliary functions that the task breaks down into, with a line on what each does. "
    "Then write the complete Python code, auxiliary functions included, in one code block.",
}


def question(problem: Problem, strategy: str) -> str:
    """Return the user turn that asks for a solution."""
    task = _task(problem)
    if strategy == "few-shot":
        shown = [
            f"{_sentence(text, name, test)}\n\n```python\n{code}```" for text, name, test, code in _SOLVED
        ]
        task = "\n\n".join(["Here are solved tasks.", *shown, "Now this one.", task])
    return f"{task}\n\n{_ORDERS[strategy]}"


def opening(problem: Problem, strategy: str) -> str:
    """Return a text whose continuation is a solution.

    It ends before the line break that most tokenizers join with the indentation of the next line.
    """
    own = (
        problem.prompt.rstrip() if problem.is_program else f'"""\n{problem.prompt}\n{problem.examples}\n"""\n'
    )
    if strategy != "few-shot":
        return own
    shown = [f'"""\n{text}\n{test}\n"""\n{code}' for text, _, test, code in _SOLVED]
    return "\n\n".join([*shown, own])


def stops(problem: Problem) -> tuple[str, ...]:
    """Return the texts that end the continuation of `opening`."""
    return PROGRAM_STOPS if problem.is_program else SENTENCE_STOPS


def _task(problem: Problem) -> str:
    if problem.is_program:
        return f"Complete this Python function.\n\n```python\n{problem.prompt.rstrip()}\n```"
    return _sentence(problem.prompt, problem.entry_point, problem.examples)


def _sentence(text: str, name: str, tests: str) -> str:
    return f"{text.strip()}\nThe function is called {name}. It has to pass:\n{tests}"
