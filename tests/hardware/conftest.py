import pytest

from .trees import unpack


@pytest.fixture
def machine(tmp_path):
    """Unpack a recorded machine by name."""
    return lambda name: unpack(name, tmp_path / name)
