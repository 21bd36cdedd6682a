"""Perplexity is what the definition says, and contamination is found where text is shared."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_eval import HUMANEVAL, call, subject_of

from apr_qa import errors
from apr_qa.errors import UsageError
from apr_qa.evaluation import contamination, text_task
from apr_qa.evaluation.contamination import compare, document_text, grams
from apr_qa.evaluation.perplexity import windows

PROSE = (
    "Water boils when it is heated to one hundred degrees. The steam rises, and when it meets a cold window it "
    "turns into small drops that run down the glass. In winter the same drops freeze into ice."
)
TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind. " * 12


@given(st.integers(0, 300), st.integers(2, 40), st.data())
def test_every_token_is_predicted_once_from_enough_before_it(
    n: int, window: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, window - 1))
    predicted: list[int] = []
    for begin, end, first in windows(n, window, stride):
        assert 0 <= begin < first < end <= n
        assert end - begin <= window
        assert begin == 0 or first - begin >= window - stride
        predicted += range(first, end)
    assert predicted == list(range(1, n))


@pytest.mark.parametrize(("window", "stride"), [(0, 1), (4, 4), (4, 0), (1, 1)])
def test_a_stride_that_would_skip_tokens_is_refused(window: int, stride: int) -> None:
    with pytest.raises(ValueError, match="stride"):
        list(windows(10, window, stride))


def reference(folder: Path, text: str, window: int, stride: int) -> tuple[float, int]:
    """Compute perplexity directly: float64 torch, one forward pass a token's window."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    ids = torch.tensor(AutoTokenizer.from_pretrained(folder)(text)["input_ids"])
    losses = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two threads that wait for each other are slower on a busy machine
    with torch.inference_mode():
        for position in range(1, len(ids)):
            if position < window:
                begin = 0
            else:  # the window that predicts it is the first one that reaches over it
                end = window + math.ceil((position + 1 - window) / stride) * stride
                begin = min(end, len(ids)) - window
            logits = model(input_ids=ids[begin:position][None]).logits[0, -1]
            losses.append(-torch.log_softmax(logits, -1)[ids[position]].item())
    torch.set_num_threads(threads)
    return math.exp(math.fsum(losses) / len(losses)), len(losses)


def test_perplexity_is_that_of_a_direct_computation_in_every_format(
    tiny_llama: Path, tiny_gguf: Path
) -> None:
    text, window, stride = TEXT[:150], 16, 5
    expected, tokens = reference(tiny_llama, text, window, stride)
    for path in (tiny_llama, tiny_gguf):
        result = text_task.evaluate(subject_of(path), "text.txt", text, window, stride)
        assert result["mode"] == "inference", result["inference_error"]
        assert result["totals"]["predicted_tokens"] == tokens
        assert result["perplexity"] == pytest.approx(expected, rel=1e-4)
        assert result["perplexity"] == pytest.approx(
            math.exp(result["totals"]["nll_nats"] / result["totals"]["predicted_tokens"])
        )


def test_a_trained_model_predicts_text_better_than_noise(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    values = []
    for name, text in (("text", PROSE), ("noise", PROSE[::-1])):
        path = tmp_path / f"{name}.txt"
        path.write_text(text, encoding="utf-8")
        arguments = ("--task", "perplexity", "--text", str(path), "--window", "64", "--json", "-q")
        code, out, _ = call(monkeypatch, capfd, "eval", str(smollm2), *arguments)
        assert code == 0
        values.append(json.loads(out)["perplexity"])
    assert 1 < values[0] < values[1] / 3


@pytest.mark.parametrize(
    ("text", "window", "stride", "words"),
    [
        ("", 32, 16, "nothing to predict|no tokens"),
        (TEXT, 10**6, 16, "exceeds the context"),
        (TEXT, 8, 9, "not less"),
    ],
)
def test_what_cannot_be_measured_is_inference_failed_and_no_number(
    tiny_gguf: Path, text: str, window: int, stride: int, words: str
) -> None:
    result = text_task.evaluate(subject_of(tiny_gguf), "text.txt", text, window, stride)
    assert result["mode"] == "inference_failed"
    assert result["perplexity"] is None
    assert set(result["totals"].values()) == {0}
    assert any(word in result["inference_error"] for word in words.split("|"))


# ---- contamination


WORDS = " ".join(f"word{i}" for i in range(40))


def report(documents: list[str], benchmark: list[str], n: int = 10, threshold: float = 0.5) -> dict[str, Any]:
    return compare(
        [(f"d{i}", text) for i, text in enumerate(documents)],
        [(f"b{i}", text) for i, text in enumerate(benchmark)],
        n,
        threshold,
    )


def test_a_document_overlaps_itself_wholly_and_another_not_at_all() -> None:
    found = report([WORDS, " ".join(f"other{i}" for i in range(40)), ""], [WORDS])
    assert (found["documents"], found["contaminated"], found["rate"]) == (3, 1, pytest.approx(1 / 3))
    pair = found["pairs"][0]
    assert (pair["document"], pair["benchmark"], pair["overlap"], pair["covered"]) == ("d0", "b0", 1.0, 1.0)
    assert pair["example"] == "word0 word1 word2 word3 word4 word5 word6 word7 word8 word9"


def test_case_and_punctuation_hide_nothing() -> None:
    assert report([WORDS.upper().replace(" ", ", ")], [WORDS])["contaminated"] == 1


def test_a_little_that_is_shared_is_counted_but_contaminates_nothing() -> None:
    document = " ".join(f"own{i}" for i in range(100)) + " " + " ".join(WORDS.split()[:12])
    found = report([document], [WORDS])
    assert (found["contaminated"], found["below_threshold"], found["pairs"]) == (0, 1, [])
    assert report([document], [WORDS], threshold=0.01)["contaminated"] == 1


def test_a_whole_benchmark_text_in_a_long_document_contaminates_it() -> None:
    document = " ".join(f"own{i}" for i in range(1000)) + " " + WORDS
    found = report([document], [WORDS])
    assert found["contaminated"] == 1
    assert found["pairs"][0]["covered"] == 1.0


def test_a_document_made_of_two_benchmark_texts_is_contaminated_by_both() -> None:
    other = " ".join(f"more{i}" for i in range(40))
    found = report([f"{WORDS} {other}"], [WORDS, other])
    assert {pair["benchmark"] for pair in found["pairs"]} == {"b0", "b1"}
    assert found["pairs"][0]["document_overlap"] > 0.8


@given(
    st.lists(st.sampled_from("abc"), max_size=30),
    st.lists(st.sampled_from("abc"), max_size=30),
    st.integers(1, 5),
)
def test_overlap_is_that_of_the_definition(document: list[str], benchmark: list[str], n: int) -> None:
    own = {tuple(document[i : i + n]) for i in range(max(1, len(document) - n + 1))} if document else set()
    assert grams(" ".join(document), n) == own
    if benchmark:
        theirs = grams(" ".join(benchmark), n)
        found = report([" ".join(document)], [" ".join(benchmark)], n, threshold=1e-9)
        overlap = found["pairs"][0]["overlap"] if found["pairs"] else 0.0
        assert overlap == (len(own & theirs) / len(own) if own else 0.0)


def test_nothing_against_nothing_is_an_error() -> None:
    with pytest.raises(UsageError, match="no words"):
        report([WORDS], ["", "!!"])
    with pytest.raises(UsageError, match="no document"):
        report([], [WORDS])


def test_the_text_of_a_row_includes_its_conversation() -> None:
    row = {
        "id": 1,
        "messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "there"}],
    }
    assert "hello" in document_text(row, "x")
    assert "there" in document_text(row, "x")
    with pytest.raises(UsageError, match="holds no text") as refused:
        document_text({"id": 1}, "x:1")
    assert refused.value.where == "x:1"


def test_the_command_reports_the_pairs_and_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stolen = json.loads(HUMANEVAL.read_text(encoding="utf-8").splitlines()[1])["prompt"]
    training = tmp_path / "train.jsonl"
    rows = [
        {"text": f"Some honest sentence number {i} about nothing in particular at all."} for i in range(9)
    ]
    training.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    arguments = ("decontaminate", str(training), "--against", str(HUMANEVAL))
    code, out, _ = call(monkeypatch, capfd, *arguments)
    assert (code, "0 of 9 documents contaminated" in out) == (0, True)
    with training.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"instruction": "x", "output": stolen}) + "\n")
    output = tmp_path / "report.json"
    code, out, _ = call(monkeypatch, capfd, *arguments, "--output", str(output))
    assert code == errors.EXIT_FINDING
    assert "train.jsonl:10  own/8: prompt" in out
    written = json.loads(output.read_text(encoding="utf-8"))
    assert (written["passed"], written["contaminated"], written["rate"]) == (False, 1, 0.1)
    assert written["n"] == contamination.N
