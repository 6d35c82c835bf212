"""The reference page is what the commands say of themselves."""

from pathlib import Path

from supervm.cli.reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


def test_the_reference_page_is_what_the_commands_say() -> None:
    made = reference()
    assert PAGE.read_text() == made, "run: python -m supervm.cli.reference > docs/reference/cli.md"


def test_the_page_has_every_verb_and_an_example_for_each() -> None:
    page = reference()
    for path in ("run", "tx object create", "query proof", "bench replay", "plugins new"):
        assert f"`supervm {path}`" in page
    assert page.count("Example:") == page.count("\n## ") + page.count("\n### ") + page.count("\n#### ")
