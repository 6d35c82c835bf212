"""The pages about hooks: one a hook, and every example runs as it stands, at a real node."""

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervm import hookspecs
from tests.e2e.harness import Node, Wallet, dev_key, started, until, verb, wait_ready

DOCS = Path(__file__).parents[2] / "docs"
HOOKS = {
    name: function
    for kind in (hookspecs.Declare, hookspecs.Extend, hookspecs.Observe)
    for name, function in vars(kind).items()
    if name.startswith("supervm_")
}
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in (DOCS / "hooks").glob("*.md")}
SOMEBODY = b"\x0b" * 32


def example(page: str) -> tuple[str, str]:
    """(module, code) of a page's example: the block, and the last file name before it."""
    before, _, rest = PAGES[page].partition("```python\n")
    return re.findall(r"`(\w+)\.py`", before)[-1], rest.partition("```")[0]


EXAMPLES = dict(example(page) for page in PAGES if page != "index")


def test_every_hook_has_a_page_with_its_arguments_and_the_index_names_it() -> None:
    assert {f"supervm_{page}" for page in PAGES if page != "index"} == set(HOOKS)
    for name, function in HOOKS.items():
        page = PAGES[name.removeprefix("supervm_")]
        assert page.startswith(f"# `{name}`\n")
        said = re.search(rf"^def {name}\((.*?)\) ->", page, re.MULTILINE)
        assert said is not None, name
        named = [part.partition(":")[0] for part in said[1].split(", ") if part]
        assert named == [each for each in inspect.signature(function).parameters if each != "self"], name
        assert f"[`{name}`]({name.removeprefix('supervm_')}.md)" in PAGES["index"], name


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every example as a module."""
    folder = tmp_path_factory.mktemp("examples")
    for module, code in EXAMPLES.items():
        (folder / f"{module}.py").write_text(code)
    return folder


@pytest.fixture(scope="module")
def node(modules: Path) -> Iterator[Node]:
    """A node with all the examples, one transfer after its start."""
    plugins = [part for module in EXAMPLES for part in ("--plugin", module)]
    chosen = ("--set", 'chain.use=["greeter", "meeting", "careful"]', "--set", "node.profile=small")
    greeting = ("--set", "chain.greeter.greeting=welcome")
    flags = (*plugins, *chosen, *greeting)
    with started(modules / "data", *flags, PYTHONPATH=str(modules)) as node:
        wait_ready(node)
        with node.client:
            node.commit(Wallet.at(node, dev_key(node.data)).pay((SOMEBODY, 1)))
            yield node
            node.stop()


@pytest.mark.parametrize(
    "line",
    [
        r"block 1: 1 transactions, fees [1-9]\d*",
        r"0x[0-9a-f]{64} is the 1\. on lane FAST",
        r"lane FAST for 0x[0-9a-f]{16}: by its operations and inputs",
        r"met 00000000 at meeting after 1\.5 ms",
        r"chain\.greeter serves \(it was opening\)",
        r"chain\.careful is careful now, no longer fast: as an example",
    ],
)
def test_what_an_observer_prints_is_said_by_the_node(line: str, node: Node) -> None:
    # Not to the line's ends: observers print from threads of their own, and `print` writes the end by itself.
    until(lambda: re.search(line, node.out.read_text()), f"a line like {line}")


def test_the_example_component_serves_with_its_option(node: Node) -> None:
    rows = node.client.get("/v1/plugins")["plugins"]
    (greeter,) = next(row["components"] for row in rows if row["id"] == "greeter")
    assert (greeter["role"], greeter["name"], greeter["state"]) == ("chain", "greeter", "serving")
    until(lambda: "text=welcome" in node.err.read_text(), "it logs its greeting")


def test_the_example_route_answers(node: Node) -> None:
    answer = node.get("/x/hello-routes/height").json()
    assert int(answer["height"]) >= 1
    assert answer["tier"] in ("L1", "L2", "L3", "L4")


def test_the_example_profile_chose_the_storage(node: Node, modules: Path) -> None:
    assert node.client.status()["composition"]["storage"] == ["sqlite"]
    flags = ("run", "--plugin", "small_profile", "--set", "node.profile=small", "--print-config")
    printed = verb(*flags, "--data", modules / "none", PYTHONPATH=str(modules))
    assert 'use = "sqlite"  # profile small of small-profile' in printed.out
    assert "cache_bytes = 4194304  # profile small of small-profile" in printed.out


def test_a_profile_that_nobody_gives_is_refused_with_the_nearest(modules: Path) -> None:
    flags = ("run", "--plugin", "small_profile", "--set", "node.profile=smal", "--once")
    ended = verb(*flags, "--data", modules / "none", PYTHONPATH=str(modules))
    assert ended.code == 2
    assert ended.errors == ["supervm: node.profile: no plugin gives a profile 'smal'; did you mean 'small'?"]


@pytest.mark.parametrize(
    ("module", "arguments", "says"),
    [
        ("hello_verbs", ("x", "hello-verbs", "greet", "world"), r"hello world"),
        ("checksum_bench", ("bench", "checksum", "--mebibytes", "1"), r"\d+ MiB/s"),
        ("checksum_bench", ("bench", "--help"), r"(?s).*checksum +Compute crc32 over zeros.*replay.*"),
    ],
)
def test_what_an_example_adds_to_the_command_line_works(
    module: str, arguments: tuple[str, ...], says: str, modules: Path
) -> None:
    ended = verb(*arguments, PYTHONPATH=str(modules), SUPERVM_PLUGINS__LOAD=module)
    assert ended.code == 0, ended
    assert re.fullmatch(says, ended.out.strip()), ended.out


def test_the_example_probe_gives_its_fact(modules: Path) -> None:
    ended = verb("probe", "--json", PYTHONPATH=str(modules), SUPERVM_PLUGINS__LOAD="kernel_release")
    fact = json.loads(ended.out)["extra"]["kernel_release"]
    assert (fact["source"], fact["unknown"]) == ("/proc/sys/kernel/osrelease", None)
    assert fact["value"]


def test_no_example_imports_more_than_the_public_surface() -> None:
    for module, code in EXAMPLES.items():
        ours = re.findall(r"^(?:from|import) (supervm\S*)", code, re.MULTILINE)
        assert set(ours) <= {"supervm.api"}, module
