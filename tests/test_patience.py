"""Words while a fit takes long, and none while it does not."""

import io
import sys
import threading

import pytest

from sweeps.patience import patience

pytestmark = pytest.mark.host


class Heard(io.StringIO):
    """Standard error that says when a whole line has been written."""

    def __init__(self) -> None:
        super().__init__()
        self.line = threading.Event()

    def write(self, text: str) -> int:
        found = super().write(text)
        if "\n" in self.getvalue():
            self.line.set()
        return found


def test_a_long_stage_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()
    monkeypatch.setattr(sys, "stderr", heard)
    with patience("loss law", silent_s=0.01) as at:
        at("search over 3850 rows")
        heard.line.clear()
        assert heard.line.wait(20)
    assert "loss law: search over 3850 rows, " in heard.getvalue() and " s so far" in heard.getvalue()


def test_a_short_one_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with patience("loss law") as at:
        at("search")
    assert capsys.readouterr().err == ""


def test_a_fault_passes_through_and_ends_the_words() -> None:
    before = threading.active_count()
    with pytest.raises(ValueError, match="wrong"), patience("loss law", silent_s=0.01):
        raise ValueError("wrong")
    assert threading.active_count() == before
