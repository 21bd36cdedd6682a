"""A few thousand mutated files in every test run; ``nox -s fuzz`` reads a hundred thousand."""

from __future__ import annotations

import random

import pytest
from fuzzing import campaign, rules, seeds
from fuzzing.mutations import CASES

FILES = {"safetensors": 1500, "gguf": 1500, "apr": 1500, "folder": 700}
SEED = 20_260


@pytest.mark.parametrize("kind", FILES)
def test_mutated_files_break_no_reader_and_no_rule(kind: str) -> None:
    report = campaign.run(kind, FILES[kind], SEED, timeout_s=300)
    assert report["findings"] == []
    counts = report["counts"]
    assert counts["accepted"] + counts["refused"] == FILES[kind]
    # A campaign in which nothing passes, or everything does, looks at nothing.
    assert counts["accepted"] > FILES[kind] / 20 and counts["refused"] > FILES[kind] / 20


def test_files_of_megabytes_take_no_more_memory_than_small_ones_may_for_their_size() -> None:
    report = campaign.run(campaign.LARGE, 5, SEED, timeout_s=600)
    assert report["findings"] == []
    assert report["counts"]["accepted"] + report["counts"]["refused"] == 5


def test_a_case_is_the_same_wherever_it_is_made_again() -> None:
    for make in CASES.values():
        assert make(random.Random("1-2-3")) == make(random.Random("1-2-3"))


def test_the_files_that_everything_is_mutated_from_are_lawful() -> None:
    assert rules.safetensors(seeds.safetensors(*seeds.safetensors_parts())) == ""
    assert rules.gguf(seeds.gguf_parts().build()) == ""
    assert rules.apr(seeds.apr_parts().build()) == ""


def test_a_reader_that_is_too_kind_too_strict_slow_greedy_or_broken_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The campaign itself, seen to fail on each thing that it looks for."""
    from apr_qa.errors import MalformedFile

    def greedy(*_: object) -> None:
        bytearray(campaign.SPARE_BYTES + (1 << 24))

    def broken(*_: object) -> None:
        raise IndexError("list index out of range")

    def strict(*_: object) -> None:
        raise MalformedFile("never")

    def endless(*_: object) -> None:
        while True:
            pass

    def kind(*_: object, **__: object) -> None:
        return None

    monkeypatch.setattr(campaign, "TIME_LIMIT_S", 0.2)
    planted = {"memory": greedy, "error": broken, "refused": strict, "slow": endless, "accepted": kind}
    for finding, reader in planted.items():
        monkeypatch.setattr(campaign, "read_container", reader)
        monkeypatch.setattr(campaign, "open_whole", kind)
        report = campaign.Campaign("gguf", 1, tmp_path_factory.mktemp(finding)).run(
            12 if reader is endless else 40
        )
        assert finding in {found["kind"] for found in report["findings"]}, finding
