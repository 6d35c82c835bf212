import pytest

from supervm.hardware.probing import ProbeLimits, probe

from .trees import unpack


@pytest.fixture
def machine(tmp_path):
    """Unpack a recorded machine by name."""
    return lambda name: unpack(name, tmp_path / name)


@pytest.fixture(autouse=True)
def no_probe_is_given_up_on_a_slow_machine(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two seconds are little there. How soon one is given up is for tests whose clock is their own."""
    if not {"mock_clock", "autojump_clock"} & set(request.fixturenames):
        monkeypatch.setitem(probe.__kwdefaults__, "limits", ProbeLimits(each_s=60.0, together_s=120.0))
