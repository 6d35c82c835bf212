"""The published vectors are what the code makes, and the page that explains them quotes them."""

import json
import re

import pytest

from supervm.types.errors import DecodeError
from supervm.types.transaction import Transaction
from tests.types.encoding_vectors import PATH, dumped

VECTORS = json.loads(PATH.read_text())
PAGE = PATH.with_name("encoding.md")


def test_the_vectors_in_the_docs_are_what_the_code_makes() -> None:
    assert PATH.read_text() == dumped(), "run: python -m tests.types.encoding_vectors, and say why in the log"


def test_every_long_hex_value_on_the_page_stands_in_the_vectors() -> None:
    published = PATH.read_text()
    quoted = re.findall(r"\b(?:0x)?([0-9a-f]{32,})\b", PAGE.read_text())
    assert len(quoted) > 10
    missing = [each for each in quoted if each not in published]
    assert missing == []


def test_the_page_names_every_group_of_vectors() -> None:
    page = PAGE.read_text()
    assert [name for name in VECTORS if f"`{name}`" not in page] == []


@pytest.mark.parametrize("vector", VECTORS["refused"], ids=lambda vector: str(vector["why"]))
def test_each_near_miss_in_the_docs_is_refused(vector: dict[str, str]) -> None:
    with pytest.raises(DecodeError):
        Transaction.decode(bytes.fromhex(vector["bytes"][2:]))


def test_the_transfer_on_the_page_is_the_published_one_byte_by_byte() -> None:
    found = re.search(r"```hex\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    written = "".join(line.split()[0] for line in found[1].splitlines())
    assert f"0x{written}" == VECTORS["transactions"][0]["transaction"]
