"""A worker's name lets another process prove that it is gone, and nothing less than proof counts."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from workers import owner


def test_a_living_process_is_not_dead() -> None:
    assert not owner.is_dead(owner.name())


def test_two_workers_of_one_process_have_two_names() -> None:
    assert owner.name() != owner.name()


def test_a_retired_worker_is_dead_though_its_process_lives() -> None:
    name = owner.name()
    owner.retire(name)
    assert owner.is_dead(name)
    assert not owner.is_dead(owner.name())


def test_a_killed_process_is_dead() -> None:
    code = "from workers import owner; print(owner.name(), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert not owner.is_dead(name)
        process.kill()
    assert owner.is_dead(name)


def test_a_pid_that_was_given_again_does_not_keep_the_old_owner_alive() -> None:
    host, boot, pid, start, worker = owner.name().rsplit("/", 4)
    assert pid == str(os.getpid())
    assert owner.is_dead("/".join((host, boot, pid, str(int(start) - 1), worker)))


def test_another_boot_is_dead_and_another_host_unknown() -> None:
    host, _, pid, start, worker = owner.name().rsplit("/", 4)
    assert owner.is_dead("/".join((host, "another-boot", pid, start, worker)))
    assert not owner.is_dead("/".join(("elsewhere", "another-boot", "1", "1", worker)))


@pytest.mark.parametrize("name", ["", "worker", "a/b/c", "host/boot/pid/start/id", "host/boot/²/start/id"])
def test_of_a_name_of_another_kind_nothing_can_be_proved(name: str) -> None:
    assert not owner.is_dead(name)
