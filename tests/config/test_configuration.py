"""The effective configuration: whose value wins, and what is said about a mistake."""

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Literal

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervm.config import (
    FILE_BYTES_MAX,
    ConfigErrors,
    Effective,
    Layer,
    RoleSection,
    as_text,
    from_pairs,
    options_from_text,
    read_all,
    read_environment,
    read_file,
    read_flags,
    read_settings,
    render,
    resolve,
    toml_value,
)


class Sync(StrEnum):
    FULL = "full"
    OFF = "off"


@attrs.frozen(kw_only=True)
class Cache:
    entries: int = 10
    ttl_s: float = 1.5


@attrs.frozen(kw_only=True)
class StoreConfig:
    path: str = ""
    cache_bytes: int = attrs.field(default=1024, validator=attrs.validators.ge(16))
    sync: Sync = Sync.FULL
    mode: Literal["a", "b"] = "a"
    files: list[str] = attrs.field(factory=list)
    ratio: float = 0.5
    limit: int | None = None
    compress: bool = False
    folder: Path = Path("x")
    cache: Cache = Cache(entries=99)


ROLES = (
    RoleSection(
        role="storage",
        many=False,
        use=("sqlite",),
        components={"sqlite": StoreConfig, "my-store": StoreConfig},
    ),
    RoleSection(role="transport", many=True, use=("memory",), components={"memory": Cache}),
)


def effective(*layers: Layer) -> Effective:
    return resolve(layers, roles=ROLES)


def toml(text: str, origin: str = "file node.toml") -> Layer:
    return Layer(origin, tomllib.loads(text))


def problems(*layers: Layer) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        effective(*layers)
    return [str(problem) for problem in caught.value.problems]


def test_every_key_has_a_default_and_says_that_it_is_built_in() -> None:
    found = effective()
    assert found.sections["api"].listen == "127.0.0.1:8645"
    assert found.use == {"storage": ("sqlite",), "transport": ("memory",)}
    assert found.options["storage", "sqlite"] == StoreConfig()
    assert {entry.origin for entry in found.entries} == {"built-in"}


def test_a_later_source_wins_and_is_named_as_the_origin() -> None:
    layers = [
        from_pairs("profile L2", [("storage.sqlite.cache_bytes", 100, "profile L2")], strict=False),
        toml("[storage.sqlite]\ncache_bytes = 200\n"),
        read_environment({"SUPERVM_STORAGE__SQLITE__CACHE_BYTES": "300"}),
        read_settings(["storage.sqlite.cache_bytes=400"]),
    ]
    expected = [(1024, "built-in"), (100, "profile L2"), (200, "file node.toml")]
    expected += [
        (300, "environment SUPERVM_STORAGE__SQLITE__CACHE_BYTES"),
        (400, "--set storage.sqlite.cache_bytes"),
    ]
    for count, (value, origin) in enumerate(expected):
        found = effective(*layers[:count])
        assert found.options["storage", "sqlite"].cache_bytes == value
        assert found.origin("storage.sqlite.cache_bytes") == origin


def test_a_flag_that_was_not_given_changes_nothing() -> None:
    found = effective(read_flags([("node.tier", None, "--tier"), ("node.data", "/d", "--data")]))
    assert found.origin("node.tier") == "built-in"
    assert (found.sections["node"].data, found.origin("node.data")) == (Path("/d"), "--data")


def test_an_unknown_key_names_the_file_the_key_and_the_nearest_right_one() -> None:
    assert problems(toml("[storage.sqlite]\ncache_byts = 1\n")) == [
        "node.toml:storage.sqlite.cache_byts: unknown key 'cache_byts'; did you mean 'cache_bytes'?"
    ]


def test_an_unknown_section_and_an_unknown_component_are_errors_too() -> None:
    found = problems(toml("[storag]\nuse = 'x'\n[storage.sqlight]\npath = ''\n"))
    assert found[0] == "node.toml:storag: unknown section 'storag'; did you mean 'storage'?"
    assert found[1].startswith("node.toml:storage.sqlight: unknown key 'sqlight'; did you mean 'sqlite'?")


def test_an_unknown_variable_and_an_unknown_setting_are_named_as_they_were_typed() -> None:
    found = problems(read_environment({"SUPERVM_NODE__TEIR": "l1"}), read_settings(["nod.name=x"]))
    assert any("SUPERVM_NODE__TEIR" in line and "did you mean 'tier'?" in line for line in found)
    assert any(line.startswith("--set nod.name: unknown") and "'node'" in line for line in found)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("cache_bytes = '8'", "expected a whole number"),
        ("cache_bytes = true", "expected a whole number"),
        ("cache_bytes = 1.5", "expected a whole number"),
        ("compress = 1", "expected true or false"),
        ("path = 7", "expected text in quotes"),
        ("files = 'a'", "expected a list of texts in quotes"),
        ("files = ['a', 1]", "expected a list of texts in quotes"),
        ("ratio = 'much'", "expected a number"),
        ("sync = 'half'", "expected one of 'full', 'off'"),
        ("mode = 'c'", "expected one of 'a', 'b'"),
        ("limit = 'none'", "expected a whole number"),
        ("cache = 3", "isn't a table"),
    ],
)
def test_a_wrong_type_names_the_value_and_what_was_expected(line: str, expected: str) -> None:
    (found,) = problems(toml(f"[storage.sqlite]\n{line}\n"))
    assert found.startswith(f"node.toml:storage.sqlite.{line.split()[0]}: ")
    assert expected in found


def test_all_problems_are_reported_at_once() -> None:
    text = "[node]\ntier = 'big'\nnmae = 'a'\n[storage]\nuse = 3\n[storage.sqlite]\nratio = 'x'\n"
    found = problems(toml(text), read_environment({"SUPERVM_API__LISTEN": "nowhere"}))
    assert len(found) == 5
    for part in ("'big'", "'name'", "storage.use: 3", "'x'", "LISTEN: not an address to listen on: nowhere"):
        assert any(part in line for line in found), part


def test_an_unknown_tier_is_answered_with_the_tiers_there_are() -> None:
    (found,) = problems(read_flags([("node.tier", "x9", "--tier")]))
    assert found == (
        "--tier: unknown tier 'x9'; use auto, l1 (supernode), l2 (miner), l3 (edge) or l4 (mobile)"
    )


def test_a_value_that_a_validator_refuses_is_named_with_its_place() -> None:
    (found,) = problems(toml("[storage.sqlite]\ncache_bytes = 3\n"))
    assert found.startswith("node.toml:storage.sqlite.cache_bytes: ")
    assert "16" in found


def test_text_from_the_environment_is_read_by_the_type_of_its_option() -> None:
    variables = {
        "SUPERVM_NODE__NAME": "007",
        "SUPERVM_STORAGE__MY_STORE__CACHE_BYTES": "64",
        "SUPERVM_STORAGE__MY_STORE__COMPRESS": "true",
        "SUPERVM_STORAGE__MY_STORE__FILES": "a, b",
        "SUPERVM_STORAGE__MY_STORE__SYNC": "off",
        "SUPERVM_STORAGE__MY_STORE__LIMIT": "9",
        "SUPERVM_STORAGE__MY_STORE__CACHE__TTL_S": "2",
        "SUPERVM_TRANSPORT__USE": '["memory", "tcp"]',
        "SUPERVM_NATIVE": "off",
        "PATH": "/bin",
    }
    found = effective(read_environment(variables))
    assert found.sections["node"].name == "007"
    assert found.use["transport"] == ("memory", "tcp")
    assert found.options["storage", "my-store"] == StoreConfig(
        cache_bytes=64,
        compress=True,
        files=["a", "b"],
        sync=Sync.OFF,
        limit=9,
        cache=Cache(entries=99, ttl_s=2.0),
    )


@pytest.mark.parametrize(
    ("name", "value"), [("cache_bytes", 64), ("files", ["a", "b,c"]), ("ratio", 0.25), ("path", "007")]
)
def test_what_is_written_as_text_is_read_back_by_its_type(name: str, value: object) -> None:
    found = options_from_text(StoreConfig, {name: as_text(value)}, "genesis")
    assert getattr(found, name) == value


def test_options_fixed_as_text_are_read_by_their_types() -> None:
    found = options_from_text(StoreConfig, {"cache_bytes": "64", "compress": "true"}, "genesis")
    assert (found.cache_bytes, found.compress) == (64, True)
    with pytest.raises(ConfigErrors, match="genesis: cach: unknown key 'cach'; did you mean 'cache'"):
        options_from_text(StoreConfig, {"cach": "64"}, "genesis")


def test_a_variable_that_is_no_number_is_refused_with_its_name() -> None:
    (found,) = problems(read_environment({"SUPERVM_STORAGE__SQLITE__CACHE_BYTES": "lots"}))
    assert "SUPERVM_STORAGE__SQLITE__CACHE_BYTES" in found
    assert "'lots'" in found


def test_a_setting_without_an_equals_sign_is_refused() -> None:
    with pytest.raises(ConfigErrors, match=r"'storage\.use' isn't SECTION\.KEY=VALUE"):
        read_settings(["storage.use"])


def test_a_variable_inside_another_is_refused_by_name() -> None:
    with pytest.raises(ConfigErrors, match="both a value and a table"):
        read_environment({"SUPERVM_STORAGE__SQLITE": "1", "SUPERVM_STORAGE__SQLITE__PATH": "p"})


def test_a_profile_key_that_nothing_answers_to_is_listed_not_refused() -> None:
    profile = from_pairs("profile L3", [("cache.strategy", "LRU", "profile L3")], strict=False)
    assert effective(profile).unused == ("cache",)


def test_other_sections_pass_while_only_the_node_s_own_are_read() -> None:
    found = resolve([toml("[storage]\nuse = 'from-a-plugin'\n[node]\nname = 'n'\n")], partial=True)
    assert found.sections["node"].name == "n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[node\n", "not TOML"),
        (b"\xff\xfe", "not UTF-8"),
        (b"#" * (FILE_BYTES_MAX + 1), "larger than"),
        (b"a=" + b"[" * 5000 + b"]" * 5000, "not TOML"),
    ],
)
def test_a_file_that_is_no_small_toml_is_refused_with_its_name(
    tmp_path: Path, content: bytes, says: str
) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigErrors, match=says) as caught:
        read_file(path)
    assert str(path) in str(caught.value)


def test_what_is_wrong_in_several_sources_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors) as caught:
        read_all([lambda: read_file(tmp_path / "none.toml"), lambda: read_settings(["nonsense"])])
    assert len(caught.value.problems) == 2


def test_a_missing_file_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors, match=r"none\.toml: can't be read"):
        read_file(tmp_path / "none.toml")


def same(first: Effective, second: Effective) -> bool:
    return (first.sections, first.use, first.options) == (second.sections, second.use, second.options)


def test_the_printed_file_loads_to_the_same_configuration() -> None:
    first = effective(
        read_settings(['node.name=a"b\\c', "storage.my-store.files=x,y z", "transport.use="]),
        toml("[storage.sqlite]\nlimit = 4\n[transport.memory]\nttl_s = 1e-7\n"),
    )
    printed = render(first)
    assert same(first, effective(toml(printed)))


def test_the_printed_file_says_beside_each_value_who_set_it() -> None:
    printed = render(effective(read_settings(["node.region=Asia"])))
    assert 'region = "Asia"  # --set node.region' in printed
    assert 'use = "sqlite"  # built-in' in printed
    assert "[storage.sqlite]" in printed
    assert "my-store" not in printed


def test_a_secret_is_not_printed() -> None:
    printed = render(effective(read_settings(["api.token=0123456789abcdef"])))
    assert "0123456789abcdef" not in printed
    assert "token is set and not shown  # --set api.token" in printed


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_being_printed_and_read(text: str) -> None:
    assert tomllib.loads(f"value = {toml_value(text)}") == {"value": text}


@given(
    st.recursive(
        st.integers(-(2**63), 2**63 - 1)
        | st.booleans()
        | st.floats(allow_nan=False)
        | st.text("ab\"\\\n\x7f'#"),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text("a-b .", min_size=1), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_any_value_survives_being_printed_and_read(value: object) -> None:
    assert tomllib.loads(f"value = {toml_value(value)}") == {"value": value}
