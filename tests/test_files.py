"""How many files there may be open, and what follows for connections."""

import resource
import subprocess
import sys
from collections.abc import Iterator

import pytest

from luna_grpc import files
from support import clean_environment


@pytest.fixture
def limit() -> Iterator[int]:
    """Return the hard limit, and set the soft one back in the end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_limit_is_raised(limit: int) -> None:
    """As far as the system allows without asking."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, limit))
    files.raise_limit()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (limit, limit)


@pytest.mark.parametrize(("allowed", "each"), [(1024, 488), (200, 76), (50, files.FEWEST), (2048, 1000)])
def test_each_door_gets_half_of_the_files(limit: int, allowed: int, each: int) -> None:
    """But for those that the process needs itself."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, limit))
    assert files.connections(None) == each
    assert 2 * each + files.OWN <= allowed or each == files.FEWEST
    assert files.connections(5) == 5


def test_too_few_files_are_a_warning(limit: int) -> None:
    """It says what is allowed, and what to do; enough of them are none."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limit))
    [few] = files.warnings(None)
    assert "allows 256 open files, so each door takes 104 connections" in few
    assert "ulimit -n" in few
    [fewer] = files.warnings(5000)
    assert "allows 256 open files, too few for LUNA_MAX_CONNECTIONS=5000" in fewer
    assert list(files.warnings(200)) == []
    resource.setrlimit(resource.RLIMIT_NOFILE, (2100, limit))
    assert list(files.warnings(None)) == []


def test_it_is_known_when_there_are_no_more() -> None:
    """In a process of its own, which has none left."""
    program = """
import os, resource
from luna_grpc import files
assert not files.exhausted()
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
taken = []
while not files.exhausted():
    taken.append(os.dup(1))
os.close(taken.pop())
assert not files.exhausted()
"""
    subprocess.run([sys.executable, "-c", program], check=True, env=clean_environment())
