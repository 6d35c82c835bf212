"""docs/reference/http-api.md names every route, code and bound that there is."""

import re
from pathlib import Path

import attrs
import trio

from supervm.chain import events
from supervm.http.app import ROUTES
from supervm.http.config import HttpConfig
from supervm.http.health import HEALTH
from supervm.http.submissions import MEDIA_TYPES

ROOT = Path(__file__).parents[2]
NOT_BOUNDS = {"listen", "metrics_listen", "token", "insecure_listen"}


async def page() -> str:
    return await trio.Path(ROOT / "docs" / "reference" / "http-api.md").read_text()


async def test_the_page_names_every_route() -> None:
    text = await page()
    for route in ROUTES:
        method = "POST" if route.methods == {"POST"} else "GET"
        assert f"| `{method} {route.path}` |" in text


async def test_the_page_names_every_bound_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", await page(), re.MULTILINE))
    for field in attrs.fields(HttpConfig):
        if field.name in NOT_BOUNDS:
            continue
        assert field.name in rows, field.name
        shown = rows[field.name].strip().replace(",", "")
        number = float(shown.split()[0]) * (2**20 if shown.endswith("MiB") else 1)
        assert number == field.default, field.name


async def test_the_page_names_every_kind_of_event_and_every_content_type() -> None:
    text = await page()
    for kind in (events.BLOCK, events.RECEIPTS, events.DROPPED, events.GAP, HEALTH):
        assert f"| `{kind}` |" in text
    for media in MEDIA_TYPES:
        assert f"| `{media}` |" in text


async def test_the_page_names_every_code_that_the_api_makes() -> None:
    text = await page()
    made: set[str] = set()
    for module in sorted((ROOT / "core" / "http").glob("*.py")):
        source = await trio.Path(module).read_text()
        made |= set(re.findall(r'(?:bad_request|not_found)\(\s*"(\w+)"', source))
        made |= set(re.findall(r'code="(\w+)"', source))
    made -= {"Refused"}
    assert len(made) > 25
    assert {code for code in made if f"`{code}`" not in text} == set()
