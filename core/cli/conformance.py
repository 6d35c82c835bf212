"""Run the conformance suite of a role on one component: pytest in a child process, read as a table."""

import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from supervm.cli.errors import Failure

if TYPE_CHECKING:
    from supervm.kernel.component import Component

TIME_LIMIT_S = 600
REASON_CHARS_MAX = 300

_MODULE = '''"""Made by `supervm plugins check`."""

from {module} import supervm_components
from supervm.testing.conformance.{role} import {suite}


class TestComponent({suite}):
    component = next(
        one for one in supervm_components() if (str(one.role), one.name) == ({role!r}, {name!r})
    )
{extra}'''

# Suites that ask for more than the component get what its defaults give.
_EXTRA = {
    "transport": """
    def configs(self, count):
        return [self.component.config() for _ in range(count)]

    def twins(self):
        import pytest

        pytest.skip("which options give two nodes one identity, the component's own tests know")
""",
}


def suite_of(role: str) -> str:
    """The name of a role's conformance class. Raises Failure where there is no suite."""
    try:
        importlib.import_module(f"supervm.testing.conformance.{role}")
    except ModuleNotFoundError as error:
        if error.name != f"supervm.testing.conformance.{role}":
            raise Failure(
                f"the conformance suites need {error.name}; pip install 'supervm[testing]'"
            ) from error
        raise Failure(f"role {role!r} has no conformance suite") from error
    return f"{role.capitalize()}Conformance"


def check_component(module: str, component: "Component") -> list[dict[str, Any]]:
    """One row a promise: component, promise, result (kept, broken, skipped), reason. Raises Failure."""
    suite = suite_of(component.role)
    with tempfile.TemporaryDirectory() as folder:
        test, report = Path(folder) / "test_component.py", Path(folder) / "report.xml"
        test.write_text(
            _MODULE.format(
                module=module,
                role=str(component.role),
                suite=suite,
                name=component.name,
                extra=_EXTRA.get(component.role, ""),
            )
        )
        (Path(folder) / "pytest.ini").write_text("[pytest]\ntrio_mode = true\n")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        try:
            done = subprocess.run(
                [*command, str(test)],
                cwd=folder,
                # The child sees what this process sees, wherever it runs.
                env=os.environ
                | {"PYTHONPATH": os.pathsep.join(str(Path(path).resolve()) for path in sys.path)},
                capture_output=True,
                text=True,
                timeout=TIME_LIMIT_S,
            )
        except subprocess.TimeoutExpired as error:
            raise Failure(f"the suite of {component.role} took more than {TIME_LIMIT_S} s") from error
        if not report.exists():
            raise Failure(f"the suite didn't run: {(done.stderr or done.stdout).strip()[-REASON_CHARS_MAX:]}")
        cases = ElementTree.parse(report).getroot().iter("testcase")
        return [_row(f"{component.role}.{component.name}", case) for case in cases]


def _row(component: str, case: ElementTree.Element) -> dict[str, Any]:
    result, reason = "kept", ""
    for child in case:
        if child.tag in ("failure", "error", "skipped"):
            result = "skipped" if child.tag == "skipped" else "broken"
            reason = " ".join((child.get("message") or child.text or "").split())[:REASON_CHARS_MAX]
    promise = case.get("name", "").removeprefix("test_").replace("_", " ")
    return {"component": component, "promise": promise, "result": result, "reason": reason}
