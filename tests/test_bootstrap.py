"""Playbooks written from contracts are those that are committed, and state what is known of the real model."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from apr_qa import bootstrap, playbook, registry
from apr_qa.cli import command_line
from apr_qa.errors import UsageError
from apr_qa.families.contract import family
from apr_qa.playbooks import lock
from apr_qa.playbooks.remarks import remarks
from apr_qa.vocabulary import Tier

ROOT = Path(__file__).parent.parent
QWEN = "Qwen/Qwen2.5-Coder-0.5B-Instruct"


def test_fresh_every_model_of_the_registry_has_the_playbook_that_its_contract_gives() -> None:
    committed = {path.name for path in (ROOT / "playbooks" / "models").glob("*.yaml")}
    models = registry.models()
    for model in models:
        name, text = bootstrap.of_model(model, Tier.MVP)
        path = ROOT / name
        assert path.read_text(encoding="utf-8") == text, f"{name}: apr-qa bootstrap --all --force"
        committed.discard(path.name)
    assert len(models) == 95 and not committed


def test_the_playbook_of_a_real_model_states_its_real_dimensions(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        command_line, ["bootstrap", "qwen2", "0.5b", "--hf-repo", QWEN, "--tier", "mvp", "--dry-run"]
    )
    assert done.exit_code == 0
    path = tmp_path / "out.yaml"
    path.write_text(done.stdout)
    book = playbook.load(path)
    assert book.expected_dimensions == {
        "hidden_dim": 896,
        "num_layers": 24,
        "num_heads": 14,
        "num_kv_heads": 2,
        "vocab_size": 151936,
        "intermediate_dim": 4864,
    }
    assert (book.subject.id, book.tier, remarks(book)) == (QWEN, Tier.MVP, ())


@pytest.mark.parametrize("tier", list(Tier))
def test_a_playbook_of_every_tier_loads_and_has_the_cells_of_the_template(tmp_path: Path, tier: Tier) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(bootstrap.playbook(family("llama"), "8b", "org/some-8B", tier))
    book = playbook.load(path)
    template = playbook.template(tier, book.subject)
    assert (book.tier, book.budget_s) == (tier, template.budget_s)
    assert book.formats == template.formats and book.backends == template.backends
    assert book.quantizations == template.quantizations


def test_what_is_missing_or_unknown_is_refused_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"qwen2 has no size '0\.6b'"):
        bootstrap.playbook(family("qwen2"), "0.6b", QWEN, Tier.MVP)
    monkeypatch.chdir(tmp_path)
    call = CliRunner().invoke
    assert isinstance(call(command_line, ["bootstrap", "qwen2"]).exception, UsageError)
    wanted = ["qwen2", "0.5b", "--hf-repo", QWEN]
    assert call(command_line, ["bootstrap", *wanted]).exit_code == 0
    assert call(command_line, ["bootstrap", *wanted]).exit_code == 0  # the same again changes nothing
    written = Path(bootstrap.path_of(QWEN, Tier.MVP))
    written.write_text(written.read_text() + "# mine\n")
    refused = call(command_line, ["bootstrap", *wanted]).exception
    assert isinstance(refused, UsageError) and "--force" in refused.fix
    assert call(command_line, ["bootstrap", *wanted, "--force"]).exit_code == 0


def test_a_contract_of_ones_own_can_be_used(tmp_path: Path) -> None:
    mine = tmp_path / "qwen2.yaml"
    mine.write_text(
        (ROOT / "families" / "qwen2.yaml").read_text().replace("hidden_dim: 896", "hidden_dim: 897")
    )
    arguments = ["qwen2", "0.5b", "--hf-repo", "org/mine", "--contracts-path", str(tmp_path), "--dry-run"]
    assert "expected_hidden_dim: 897" in CliRunner().invoke(command_line, ["bootstrap", *arguments]).stdout


# ---- the lock


def test_the_lock_tells_what_changed_what_is_new_and_what_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "playbooks"
    (folder / "models").mkdir(parents=True)
    for name in ("a.yaml", "b.yaml", "models/c.d.yaml"):
        (folder / name).write_text(f"name: {name}\n")
    assert CliRunner().invoke(command_line, ["lock-playbooks", str(folder)]).exit_code == 0
    assert CliRunner().invoke(command_line, ["lock-playbooks", str(folder), "--check"]).exit_code == 0
    (folder / "a.yaml").write_text("name: changed\n")
    (folder / "b.yaml").unlink()
    (folder / "e.yaml").write_text("name: new\n")
    done = CliRunner().invoke(command_line, ["lock-playbooks", str(folder), "--check"])
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        "a.yaml: changed since it was locked",
        "b.yaml: is locked, but is not there",
        "e.yaml: is not in the lock",
    ]


def test_a_locked_playbook_that_changed_is_remarked_on_and_others_are_not(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("model: {id: a/b}\n")
    book = playbook.load(path)
    assert lock.remark(path, book.sha256) == ""
    (tmp_path / lock.FILE).write_text(lock.text(tmp_path))
    assert lock.remark(path, book.sha256) == ""
    path.write_text("model: {id: a/b}\nname: other\n")
    assert "differs from its hash" in lock.remark(path, playbook.load(path).sha256)
    (tmp_path / lock.FILE).write_text("playbooks:\n  nonsense\n")
    with pytest.raises(UsageError) as refusal:
        lock.remark(path, book.sha256)
    assert refusal.value.where.endswith(":2")


@pytest.mark.parametrize(
    ("family_name", "size", "repo", "dimensions"),
    [
        ("llama", "1b", "meta-llama/Llama-3.2-1B-Instruct", (2048, 16, 32, 8, 128256, 8192)),
        ("llama", "135m", "HuggingFaceTB/SmolLM2-135M-Instruct", (576, 30, 9, 3, 49152, 1536)),
        ("qwen3", "0.6b", "Qwen/Qwen3-0.6B", (1024, 28, 16, 8, 151936, 3072)),
        ("mistral", "7b", "mistralai/Mistral-7B-Instruct-v0.3", (4096, 32, 32, 8, 32768, 14336)),
        ("phi3", "3.8b", "microsoft/Phi-3.5-mini-instruct", (3072, 32, 32, 32, 32064, 8192)),
        ("starcoder2", "3b", "bigcode/starcoder2-3b", (3072, 30, 24, 2, 49152, 12288)),
    ],
)
def test_dimensions_of_other_families_are_those_that_their_authors_publish(
    family_name: str, size: str, repo: str, dimensions: tuple[int, ...], tmp_path: Path
) -> None:
    done = CliRunner().invoke(
        command_line, ["bootstrap", family_name, size, "--hf-repo", repo, "--tier", "mvp", "--dry-run"]
    )
    path = tmp_path / "out.yaml"
    path.write_text(done.stdout)
    names = ("hidden_dim", "num_layers", "num_heads", "num_kv_heads", "vocab_size", "intermediate_dim")
    assert playbook.load(path).expected_dimensions == dict(zip(names, dimensions, strict=True))
