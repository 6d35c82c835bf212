"""The network adapters: the fastest link, the kind that carries the default route, usable media."""

import re
from pathlib import Path

import attrs

from supervm.hardware.facts import Known, NetworkKind, Probe, ProbeContext, Reading, Unknown
from supervm.hardware.reading import Unreadable, entries, exists, read_int, read_line, read_text
from supervm.hardware.system import CommandFailed

FACTS = ("network_link_mbps", "network_kind", "network_metered", "media")
# linux/if_arp.h
ARPHRD_ETHER = 1
ARPHRD_LOOPBACK = 772
IFF_RUNNING = 0x40
CELLULAR_NAMES = re.compile(r"(wwan|rmnet|ccmni)")
LINK_MBPS_MAX = 10_000_000


@attrs.frozen
class Adapter:
    """One interface that is up. `link_mbps` is None where its driver doesn't tell."""

    name: str
    kind: NetworkKind
    is_real: bool
    link_mbps: int | None
    source: str


def read(context: ProbeContext) -> Reading:
    """Link speed, kind, metered, media."""
    if context.platform != "linux":
        return dict.fromkeys(FACTS, Unknown("known on Linux only"))
    folder = context.sys / "class/net"
    try:
        adapters = [found for entry in entries(folder) if (found := _adapter(entry)) is not None]
    except Unreadable as error:
        return dict.fromkeys(FACTS, Unknown(str(error)))
    route = _default_route(context)
    # What a tunnel or a container's pair rides on is an adapter of the machine, where we can see one.
    real = [adapter for adapter in adapters if adapter.is_real]
    carrying = [adapter for adapter in adapters if adapter.name == route]
    first = next((adapter for adapter in [*carrying, *_fastest_first(real)] if adapter.is_real), None)
    return {
        "network_link_mbps": _link(real, folder),
        "network_kind": Known(first.kind, first.source)
        if first is not None and first.kind is not NetworkKind.UNKNOWN
        else Unknown(f"{folder}: no adapter of a known kind is up"),
        "network_metered": _metered(context, route or (first.name if first else "")),
        "media": _media(context, adapters, route),
    }


def _adapter(folder: Path) -> Adapter | None:
    """The interface, or None where it is down, a loopback, or unreadable."""
    try:
        kind_number = read_int(folder / "type")
        if kind_number == ARPHRD_LOOPBACK or not _is_up(folder):
            return None
    except Unreadable:
        return None
    kind = _kind(folder, kind_number)
    is_real = exists(folder / "device") or kind is NetworkKind.CELLULAR
    return Adapter(folder.name, kind, is_real, _speed(folder), str(folder))


def _is_up(folder: Path) -> bool:
    state = read_line(folder / "operstate")
    if state == "unknown":  # modems and tunnels say no more
        return bool(_flags(folder) & IFF_RUNNING)
    return state == "up"


def _flags(folder: Path) -> int:
    try:
        return int(read_line(folder / "flags")[:10], 16)
    except (Unreadable, ValueError):
        return 0


def _kind(folder: Path, number: int) -> NetworkKind:
    try:
        described = read_text(folder / "uevent").split()
    except Unreadable:
        described = []
    if "DEVTYPE=wwan" in described or CELLULAR_NAMES.match(folder.name):
        return NetworkKind.CELLULAR
    if "DEVTYPE=wlan" in described or exists(folder / "wireless") or exists(folder / "phy80211"):
        return NetworkKind.WIFI
    if number == ARPHRD_ETHER and exists(folder / "device"):
        return NetworkKind.ETHERNET
    return NetworkKind.UNKNOWN


def _speed(folder: Path) -> int | None:
    """Mbit/s; None for -1 or an error of the driver, which mean unknown."""
    try:
        speed = read_int(folder / "speed")
    except Unreadable:
        return None
    return speed if 0 < speed <= LINK_MBPS_MAX else None


def _fastest_first(adapters: list[Adapter]) -> list[Adapter]:
    return sorted(adapters, key=lambda adapter: -(adapter.link_mbps or 0))


def _link(real: list[Adapter], folder: Path) -> Known | Unknown:
    """A virtual adapter's speed is a constant of its driver and tells nothing."""
    fastest = next((adapter for adapter in _fastest_first(real) if adapter.link_mbps), None)
    if fastest is not None:
        return Known(fastest.link_mbps, f"{fastest.source}/speed")
    names = ", ".join(adapter.name for adapter in real)
    return Unknown(f"{folder}: {names or 'no real adapter'} {'tells no speed' if names else 'is up'}")


def _default_route(context: ProbeContext) -> str | None:
    """The interface of the default route with the lowest metric; None where there is none to see."""
    found: list[tuple[int, str]] = []
    try:
        lines = read_text(context.proc / "net/route").splitlines()[1:]
    except Unreadable:
        lines = []
    for line in lines:
        words = line.split()
        if len(words) >= 8 and words[1] == words[7] == "00000000" and words[6].isdigit():
            found.append((int(words[6][:10]), words[0]))
    if not found:
        found = _default_route_ipv6(context)
    return min(found)[1] if found else None


def _default_route_ipv6(context: ProbeContext) -> list[tuple[int, str]]:
    try:
        lines = read_text(context.proc / "net/ipv6_route").splitlines()
    except Unreadable:
        return []
    found: list[tuple[int, str]] = []
    for line in lines:
        words = line.split()
        if len(words) == 10 and words[0] == "0" * 32 and words[1] == "00" and words[9] != "lo":
            try:
                found.append((int(words[5], 16), words[9]))
            except ValueError:
                continue
    return found


def _metered(context: ProbeContext, name: str) -> Known | Unknown:
    """NetworkManager's word; it asks no network."""
    if not name:
        return Unknown("no adapter is up")
    try:
        answer = context.command(["nmcli", "-g", "GENERAL.METERED", "device", "show", name]).strip()
    except CommandFailed as error:
        return Unknown(f"NetworkManager: {error}")
    if answer.startswith(("yes", "no")):
        return Known(answer.startswith("yes"), f"NetworkManager, {name}: {answer[:40]}")
    return Unknown(f"NetworkManager, {name}: {answer[:40]!r}")


def _media(context: ProbeContext, adapters: list[Adapter], route: str | None) -> Known:
    media = {"internet"} if route is not None else set()
    if any(adapter.kind is NetworkKind.WIFI for adapter in adapters):
        media.add("wifi")
    try:
        if any(entry.name.startswith("hci") for entry in entries(context.sys / "class/bluetooth")):
            media.add("bluetooth")
    except Unreadable:
        media.discard("bluetooth")
    return Known(frozenset(media), "default route, adapters that are up; satellite and lora can't be seen")


PROBE = Probe("network", FACTS, read)
