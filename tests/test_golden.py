"""Golden logits: kept once, compared by element, never compared with themselves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from apr_qa.cli import command_line
from apr_qa.errors import EnvironmentFault, UsageError
from apr_qa.golden import corpus
from apr_qa.golden.tolerance import LEVELS, Tolerance, agreement

LEVEL_NAMES = sorted(LEVELS)


def parity(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command_line, ["parity", *map(str, arguments)])


@pytest.fixture(scope="module")
def kept(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("golden")
    assert parity("generate", tiny_llama, "-c", root, "-m", "tiny/1").exit_code == 0
    return root


def test_a_conversion_agrees_and_a_spoiled_copy_does_not(
    kept: Path, tiny_llama: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    assert parity("compare", tiny_gguf, "-c", kept, "-m", "tiny/1").exit_code == 0
    spoiled = tmp_path / "spoiled"
    spoiled.mkdir()
    for file in tiny_llama.iterdir():
        (spoiled / file.name).write_bytes(file.read_bytes())
    config = json.loads((spoiled / "config.json").read_text())
    (spoiled / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 10.0}))
    done = parity("compare", spoiled, "-c", kept, "-m", "tiny/1", "--json")
    assert done.exit_code == 1 and not any(row["agrees"] for row in json.loads(done.stdout)["prompts"])


def test_a_model_is_not_compared_with_its_own_corpus_unless_asked(kept: Path, tiny_llama: Path) -> None:
    refused = parity("compare", tiny_llama, "-c", kept, "-m", "tiny/1")
    assert isinstance(refused.exception, UsageError) and "itself" in refused.exception.what
    assert parity("compare", tiny_llama, "-c", kept, "-m", "tiny/1", "--self-check").exit_code == 0


def test_a_file_of_logits_is_compared_but_never_the_golden_one(kept: Path, tmp_path: Path) -> None:
    golden = kept / "tiny" / "1" / f"{corpus.name_of('2 + 2 =')}.safetensors"
    mine = tmp_path / "mine.safetensors"
    values = corpus.logits_at(golden)
    save_file({"logits": values + np.float32(1e-4)}, mine)
    arguments = ["compare", "-c", kept, "-m", "tiny/1", "-p", "2 + 2 =", "-l"]
    assert parity(*arguments, mine).exit_code == 0
    save_file({"logits": values[:, ::-1].copy()}, mine)
    assert parity(*arguments, mine).exit_code == 1
    assert isinstance(parity(*arguments, golden).exception, UsageError)
    save_file({"logits": values[:0]}, mine)
    assert isinstance(parity(*arguments, mine).exception, UsageError)


def test_golden_logits_that_changed_since_are_refused(kept: Path, tmp_path: Path, tiny_gguf: Path) -> None:
    import shutil

    copied = tmp_path / "copied"
    shutil.copytree(kept / "tiny" / "1", copied)
    victim = next(copied.glob("*.safetensors"))
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(bytes(data))
    about = corpus.read(copied)
    with pytest.raises(EnvironmentFault, match="changed since"):
        for golden in about.prompts:
            corpus.golden_logits(about, golden)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"prompts": []}', '{"prompts": [], "model": "m", "model_sha256": "", "engine": "e"}'],
)
def test_a_broken_or_empty_corpus_is_a_usage_error(content: str, tmp_path: Path) -> None:
    (tmp_path / corpus.MANIFEST).write_text(content)
    with pytest.raises(UsageError):
        corpus.read(tmp_path)


def test_the_list_names_every_corpus_and_says_so_when_there_is_none(kept: Path, tmp_path: Path) -> None:
    assert parity("list", "-c", kept).stdout.startswith("tiny/1: 5 prompts")
    assert "no corpus" in parity("list", "-c", tmp_path).stderr


@given(st.sampled_from(LEVEL_NAMES), st.integers(0, 2**32 - 1))
def test_equal_logits_agree_at_every_level_and_nan_never_does(level: str, seed: int) -> None:
    golden = np.random.default_rng(seed).normal(size=(3, 40)).astype(np.float32)
    assert agreement(golden, golden, LEVELS[level]).agrees
    spoiled = np.full_like(golden, np.nan)
    found = agreement(golden, spoiled, LEVELS[level])
    assert not found.agrees and found.mismatched == golden.size


@given(st.floats(0, 2), st.integers(0, 2**32 - 1))
def test_a_larger_difference_never_agrees_where_a_smaller_one_does_not(step: float, seed: int) -> None:
    allowed = Tolerance(atol=0.5, rtol=0.0, mismatched=0.0)
    golden = np.random.default_rng(seed).normal(size=(2, 8)).astype(np.float32)
    near, far = (agreement(golden, golden + np.float32(times * step), allowed) for times in (1, 2))
    assert near.agrees or not far.agrees


def test_nothing_is_not_compared_with_nothing() -> None:
    empty = np.empty((0, 4), dtype=np.float32)
    with pytest.raises(UsageError):
        agreement(empty, empty, LEVELS["fp32"])
