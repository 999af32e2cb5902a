"""What the tests themselves stand on."""

import pytest

from support import need


def test_a_tool_that_is_missing_skips_a_test_and_fails_it_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both say what to do."""
    need("sh")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-tool is missing: apt install no-such-tool"):
        need("sh", "no-such-tool")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no-such-tool is missing: ask someone"):
        need("no-such-tool", hints={"no-such-tool": "ask someone"})
