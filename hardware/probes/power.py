"""The battery the machine runs from. A mouse's battery, and an uninterruptible supply, are not one."""

from pathlib import Path

from supervm.hardware.facts import Battery, Known, Probe, ProbeContext, Reading, Unknown
from supervm.hardware.reading import Unreadable, entries, read_int, read_line


def read(context: ProbeContext) -> Reading:
    """The first system battery; None where there is none."""
    if context.platform != "linux":
        return {"battery": Unknown("known on Linux only")}
    folder = context.sys / "class/power_supply"
    try:
        supplies = entries(folder)
    except Unreadable as error:
        return {"battery": Unknown(str(error))}
    for supply in supplies:
        if _is_battery(supply):
            return {
                "battery": Known(Battery(percent=_percent(supply), charging=_charging(supply)), str(supply))
            }
    return {"battery": Known(None, f"no battery in {folder}")}


def _line(path: Path) -> str:
    try:
        return read_line(path)
    except Unreadable:
        return ""


def _is_battery(supply: Path) -> bool:
    return (
        _line(supply / "type") == "Battery"
        and _line(supply / "scope") != "Device"
        and _line(supply / "present") != "0"
    )


def _percent(supply: Path) -> int | None:
    try:
        percent = read_int(supply / "capacity")
    except Unreadable:
        return None
    return percent if 0 <= percent <= 100 else None


def _charging(supply: Path) -> bool | None:
    status = _line(supply / "status")
    return (
        status in ("Charging", "Full")
        if status in ("Charging", "Full", "Discharging", "Not charging")
        else None
    )


PROBE = Probe("power", ("battery",), read)
