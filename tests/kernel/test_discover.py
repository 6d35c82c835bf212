"""PLUG-3, PLUG-4: what is found, what is refused, and that neither hurts anybody else."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pluggy
import pytest

from supervm import hookspecs
from supervm.kernel.discover import Plugin, Rules, catalogue, discover, sources
from supervm.kernel.manifest import MANIFEST_BYTES_MAX, ManifestInvalid, manifest_beside, read_manifest

RULES = Rules(api=(1, 2))
MANIFEST = """
manifest = 1
id = "{id}"
version = "0.3"
api = "{api}"
entry = "{module}"
components = [{{ role = "storage", name = "{name}" }}]
"""
CODE = """
from supervm.api import Component, Role, hookimpl

@hookimpl
def supervm_components():
    yield Component(role=Role.STORAGE, name="{name}", open=lambda ctx, config: None)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder of plugins; what they import is forgotten afterwards."""
    before_path, before_modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = before_path
    for name in set(sys.modules) - before_modules:
        del sys.modules[name]


def write(
    folder: Path,
    module: str,
    code: str = CODE,
    api: str = "1.0",
    manifest: str = MANIFEST,
    name: str = "mine",
) -> None:
    place = folder / module
    place.mkdir(parents=True)
    (place / f"{module}.py").write_text(code.format(name=name) if code is CODE else code)
    filled = manifest.format(id=module.replace("_", "-"), api=api, module=module, name=name)
    (place / "plugin.toml").write_text(filled)


def manager() -> pluggy.PluginManager:
    made = pluggy.PluginManager("supervm")
    for specs in (hookspecs.Declare, hookspecs.Extend, hookspecs.Observe):
        made.add_hookspecs(specs)
    return made


def load(folder: Path, rules: Rules = RULES) -> tuple[pluggy.PluginManager, dict[str, Plugin]]:
    made = manager()
    found = sources("supervm-tests-no-such-group", "supervm", [folder])
    return made, {plugin.id: plugin for plugin in discover(made, found, rules)}


def refusal(plugin: Plugin) -> str:
    assert plugin.problem is not None and plugin.module is None and plugin.components == ()
    assert plugin.problem.mend
    return plugin.problem.kind


def test_a_plugin_in_a_folder_is_loaded_and_gives_its_components(folder: Path) -> None:
    write(folder, "good_one")
    made, plugins = load(folder)
    assert plugins["good-one"].problem is None and plugins["good-one"].version == "0.3"
    assert [found.key for found in catalogue(tuple(plugins.values()))] == [("storage", "mine")]
    assert made.has_plugin("good-one")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("raise RuntimeError('no luck')", "ImportFailed"),
        ("import sys; sys.exit(1)", "ImportFailed"),
        ("import no_such_module_anywhere", "ImportFailed"),
        ("def broken(:", "ImportFailed"),
        (
            "from supervm.api import hookimpl\n@hookimpl\ndef supervm_components():\n    raise KeyError('x')",
            "ImportFailed",
        ),
        (
            "from supervm.api import hookimpl\n@hookimpl\ndef supervm_components():\n    return [42]",
            "ImportFailed",
        ),
        (
            "from supervm.api import hookimpl\n@hookimpl\ndef supervm_componets():\n    return []",
            "ImportFailed",
        ),
        (
            "from supervm.api import hookimpl\n@hookimpl\ndef supervm_peer_seen(wrong):\n    pass",
            "ImportFailed",
        ),
        ("x = 1", "ManifestMismatch"),
    ],
)
def test_a_plugin_that_fails_is_refused_by_name_and_leaves_no_hook(
    folder: Path, code: str, kind: str
) -> None:
    write(folder, "bad_one", code)
    write(folder, "good_one")
    made, plugins = load(folder)
    assert refusal(plugins["bad-one"]) == kind
    assert not made.has_plugin("bad-one")
    assert plugins["good-one"].problem is None


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        ("not toml at all [", "plugin.toml"),
        (MANIFEST + "permisions = {{}}\n", "permisions"),
        (MANIFEST.replace("manifest = 1", "manifest = 2"), "manifest"),
        (MANIFEST.replace('version = "0.3"\n', ""), "'version' is missing"),
        (MANIFEST.replace('api = "{api}"', 'api = "one"'), "api"),
    ],
)
def test_a_bad_manifest_is_refused_before_any_code_runs(folder: Path, manifest: str, says: str) -> None:
    write(folder, "bad_one", "raise AssertionError('imported')", manifest=manifest)
    _, plugins = load(folder)
    plugin = next(iter(plugins.values()))
    assert refusal(plugin) == "ManifestInvalid"
    assert plugin.problem is not None and says in plugin.problem.cause


def test_an_oversized_manifest_is_refused_unparsed(tmp_path: Path) -> None:
    path = tmp_path / "plugin.toml"
    path.write_text("#" * (MANIFEST_BYTES_MAX + 1))
    with pytest.raises(ManifestInvalid, match="at most"):
        read_manifest(path)


@pytest.mark.parametrize("api", ["1.3", "2.0", "0.9"])
def test_a_plugin_for_an_api_this_node_lacks_is_refused_before_importing(folder: Path, api: str) -> None:
    write(folder, "late_one", "raise AssertionError('imported')", api=api)
    assert refusal(load(folder)[1]["late-one"]) == "ApiMismatch"


def test_deny_wins_and_an_allow_list_excludes_the_rest(folder: Path) -> None:
    write(folder, "one_one", name="aa")
    write(folder, "two_two", name="bb")
    _, plugins = load(folder, Rules(api=(1, 0), allow=("one-one",)))
    assert plugins["one-one"].problem is None and refusal(plugins["two-two"]) == "PolicyRefused"
    assert "one_one" in sys.modules and "two_two" not in sys.modules
    _, plugins = load(folder, Rules(api=(1, 0), allow=("one-one",), deny=("one-one",)))
    assert refusal(plugins["one-one"]) == "PolicyRefused"


def test_a_second_plugin_of_one_id_is_refused_and_both_are_named(folder: Path) -> None:
    write(folder / "first", "same_one")
    write(folder / "second", "other", manifest=MANIFEST.replace('"{id}"', '"same-one"'))
    made = manager()
    found = sources("supervm-tests-no-such-group", "supervm", [folder / "first", folder / "second"])
    plugins = discover(made, found, RULES)
    assert plugins[0].problem is None
    assert refusal(plugins[1]) == "DuplicatePlugin"
    assert plugins[1].problem is not None and str(folder / "first") in plugins[1].problem.cause


def test_a_module_named_by_hand_needs_no_manifest(folder: Path) -> None:
    (folder / "by_hand.py").write_text(CODE.format(name="mine"))
    sys.path.append(str(folder))
    plugins = discover(manager(), sources("supervm-tests-no-such-group", "supervm", (), ["by_hand"]), RULES)
    assert [plugin.problem for plugin in plugins] == [None]
    assert plugins[0].source.kind == "module"


def test_a_module_that_does_not_exist_is_named(folder: Path) -> None:
    plugins = discover(manager(), sources("supervm-tests-no-such-group", "supervm", (), ["no_such"]), RULES)
    assert refusal(plugins[0]) == "ImportFailed"
    assert plugins[0].problem is not None and "no_such" in plugins[0].problem.cause


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ('contract = "1.7"', "storage mine, contract 1.7"),
        ('features = ["persistent"]', "storage mine, contract 1.0, persistent"),
    ],
)
def test_a_manifest_that_says_more_than_the_code_is_refused(folder: Path, wrong: str, says: str) -> None:
    write(folder, "proud_one", manifest=MANIFEST.replace('name = "{name}"', f'name = "{{name}}", {wrong}'))
    plugin = load(folder)[1]["proud-one"]
    assert refusal(plugin) == "ManifestMismatch"
    assert plugin.problem is not None and f"only the manifest has {says}" in plugin.problem.cause


def test_the_manifest_of_a_package_is_found_without_importing_it(folder: Path) -> None:
    package = folder / "quiet_package" / "inner"
    package.mkdir(parents=True)
    (folder / "quiet_package" / "__init__.py").write_text("raise AssertionError('imported')")
    (package / "__init__.py").write_text("")
    (package / "plugin.toml").write_text("")
    sys.path.append(str(folder))
    assert manifest_beside("quiet_package.inner") == package / "plugin.toml"
    assert manifest_beside("no_such_package") is None


def test_every_plugin_that_ships_loads() -> None:
    plugins = discover(manager(), sources("supervm", "supervm"), Rules(api=(1, 0)))
    shipped = [plugin for plugin in plugins if plugin.source.kind == "shipped"]
    assert len(shipped) == 7
    assert {plugin.id: plugin.problem for plugin in shipped if plugin.problem} == {}
