"""How many cores a process may use: by a made-up tree of control groups, as a container has it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from soundstack.utils import devices
from soundstack.utils.project import cores


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Cores on a machine of eight, for a process in a group, with what ``cpu.max`` says in some groups."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)

    def made(membership: str, **quotas: str) -> int:
        (tmp_path / "membership").write_text(membership)
        for group, content in quotas.items():
            folder = tmp_path / "groups" / group.replace("_", "/").removeprefix("root").lstrip("/")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "cpu.max").write_text(content)
        return cores(tmp_path / "membership", tmp_path / "groups")

    return made


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("350000 100000\n", 3),
        ("50000 100000\n", 1),
        ("25000 50000\n", 1),
        ("1600000 100000\n", 8),
        ("", 8),
        ("nonsense\n", 8),
    ],
)
def test_a_container_has_the_whole_cores_of_its_quota(groups, quota: str, expected: int) -> None:
    assert groups("0::/\n", root=quota) == expected


def test_the_smallest_quota_of_a_group_and_those_around_it_counts(groups) -> None:
    unlimited = {"pods": "max 100000", "pods_one": "300000 100000", "pods_one_box": "500000 100000"}
    assert groups("0::/pods/one/box\n", **unlimited) == 3
    assert groups("0::/pods/one/box\n", **unlimited | {"pods_one_box": "100000 100000"}) == 1
    assert groups("0::/pods/other\n", pods_other="700000 100000") == 7


def test_a_group_that_cannot_be_seen_from_here_is_the_one_around_it(groups) -> None:
    """As in Docker without a namespace of groups: the name is the host's, what is mounted the container's own."""
    assert groups("0::/docker/0123abcd\n", root="400000 100000") == 4


@pytest.mark.parametrize("membership", ["", "5:cpu:/box\n1:memory:/box\n"])
def test_without_groups_of_version_two_the_affinity_counts(groups, membership: str) -> None:
    assert groups(membership) == 8


def test_where_there_are_no_groups_at_all_the_affinity_counts(groups, tmp_path: Path) -> None:
    groups("")
    assert cores(tmp_path / "nowhere", tmp_path / "nowhere") == 8


def test_torch_takes_no_more_threads_than_there_are_cores_unless_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(devices, "cores", lambda: 3)
    try:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        for there, expected in ((8, 3), (2, 2)):
            torch.set_num_threads(there)
            devices.choose("cpu")
            assert torch.get_num_threads() == expected
        monkeypatch.setenv("OMP_NUM_THREADS", "8")
        torch.set_num_threads(8)
        devices.choose("cpu")
        assert torch.get_num_threads() == 8
    finally:
        torch.set_num_threads(before)
