"""Files of the project are found wherever the program was installed or started."""

from __future__ import annotations

from pathlib import Path

import pytest

from apr_qa import resources
from apr_qa.errors import UsageError


@pytest.fixture
def three_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    folders = {
        "user": tmp_path / "user",
        "data": tmp_path / "project" / "apr_qa" / "data",
        "checkout": tmp_path / "project",
    }
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(folders["user"])
    monkeypatch.setattr(resources, "PACKAGE", tmp_path / "project" / "apr_qa")
    return folders


def put(folder: Path, relative: str, text: str = "") -> Path:
    path = folder / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_working_directory_wins_over_the_wheel_and_the_wheel_over_the_checkout(
    three_places: dict[str, Path],
) -> None:
    relative = "playbooks/templates/mvp.yaml"
    checkout = put(three_places["checkout"], relative)
    assert resources.find(relative) == checkout
    data = put(three_places["data"], relative)
    assert resources.find(relative) == data
    user = put(three_places["user"], relative)
    assert resources.find(relative) == user


def test_a_missing_file_is_a_refusal_that_names_every_place(three_places: dict[str, Path]) -> None:
    with pytest.raises(UsageError) as refusal:
        resources.find("certifications/models.csv")
    for folder in three_places.values():
        assert str(folder) in refusal.value.where


def test_a_folder_in_place_of_the_file_is_not_the_file(three_places: dict[str, Path]) -> None:
    (three_places["user"] / "schemas").mkdir()
    with pytest.raises(UsageError):
        resources.find("schemas")


def test_listings_merge_the_places_and_the_first_place_wins_per_name(three_places: dict[str, Path]) -> None:
    put(three_places["data"], "playbooks/models/b.yaml")
    put(three_places["data"], "playbooks/models/a.yaml")
    put(three_places["data"], "playbooks/models/note.txt")
    mine = put(three_places["user"], "playbooks/models/b.yaml")
    found = resources.listing("playbooks/models", ".yaml")
    assert [path.name for path in found] == ["a.yaml", "b.yaml"]
    assert found[1] == mine


def test_a_listing_of_a_folder_that_no_place_has_is_a_refusal(three_places: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="playbooks/other"):
        resources.listing("playbooks/other", ".yaml")


@pytest.mark.parametrize("relative", ["/etc/passwd", "../secret", "a/../../b", ""])
def test_names_that_leave_the_project_are_refused(relative: str) -> None:
    with pytest.raises(UsageError):
        resources.find(relative)
