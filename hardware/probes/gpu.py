"""GPUs. Drivers are asked in a child process with a time limit: they may hang or crash."""

import sys
from pathlib import Path

from supervm.hardware.facts import Gpu, Known, Probe, ProbeContext, Reading, Unknown
from supervm.hardware.reading import Unreadable, entries, exists, read_int, read_line
from supervm.hardware.system import CommandFailed

NVIDIA = 0x10DE
# Others on a PCI bus (management controllers, virtual screens) only show pictures.
VENDORS = {NVIDIA: "nvidia", 0x1002: "amd", 0x8086: "intel"}
DISPLAY_CLASS = "0x03"
DRIVER_SECONDS = 0.9

QUERY = ["nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
# The same three columns from the driver's library: name, MiB, capability. Attributes 75 and 76 are the
# major and minor compute capability (CUDA driver API, CUdevice_attribute).
LIBCUDA = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
def must(code):
    if code:
        raise SystemExit(code)
must(cuda.cuInit(0))
count = ctypes.c_int()
must(cuda.cuDeviceGetCount(ctypes.byref(count)))
for index in range(count.value):
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name, total = ctypes.create_string_buffer(128), ctypes.c_size_t()
    must(cuda.cuDeviceGet(ctypes.byref(device), index))
    must(cuda.cuDeviceGetName(name, 128, device))
    must(cuda.cuDeviceTotalMem_v2(ctypes.byref(total), device))
    must(cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device))
    must(cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device))
    print(name.value.decode(), total.value // 2**20, f"{major.value}.{minor.value}", sep=", ")
"""


def read(context: ProbeContext) -> Reading:
    """Every GPU; an empty tuple where we looked and there is none."""
    if context.platform != "linux":
        return {"gpus": Unknown("known on Linux only")}
    folder = context.sys / "bus/pci/devices"
    found: list[Gpu] = []
    has_nvidia = exists(context.proc / "driver/nvidia")
    sources = [str(folder)]
    try:
        for device in entries(folder):
            gpu = _from_bus(device)
            if gpu is not None and gpu.vendor == "nvidia":
                has_nvidia = True
            if gpu is not None:
                found.append(gpu)
    except Unreadable as error:
        if not exists(context.sys / "bus"):
            return {"gpus": Unknown(str(error))}
    if has_nvidia:
        try:
            told, source = _ask_driver(context)
            found = [gpu for gpu in found if gpu.vendor != "nvidia"] + told
        except CommandFailed as error:
            source = str(error)
        sources.append(source)
    return {"gpus": Known(tuple(found[:64]), "; ".join(sources))}


def _from_bus(device: Path) -> Gpu | None:
    """What the bus tells without a driver: the vendor, and AMD's memory."""
    try:
        if not read_line(device / "class").startswith(DISPLAY_CLASS):
            return None
        vendor, model = (int(read_line(device / name)[:10], 16) for name in ("vendor", "device"))
    except (Unreadable, ValueError):
        return None
    if vendor not in VENDORS:
        return None
    try:
        memory: int | None = read_int(device / "mem_info_vram_total")
    except Unreadable:
        memory = None
    return Gpu(
        vendor=VENDORS[vendor],
        model=f"pci {vendor:04x}:{model:04x}",
        memory_bytes=memory if memory and memory > 0 else None,
    )


def _ask_driver(context: ProbeContext) -> tuple[list[Gpu], str]:
    try:
        return _parse(context.command(QUERY, DRIVER_SECONDS)), QUERY[0]
    except CommandFailed as first:
        try:
            return _parse(context.command([sys.executable, "-c", LIBCUDA], DRIVER_SECONDS)), "libcuda.so.1"
        except CommandFailed as second:
            raise CommandFailed(f"{first}; libcuda.so.1: {second}") from second


def _parse(text: str) -> list[Gpu]:
    """Lines `name, MiB, major.minor`; a column that isn't told is `[N/A]`."""
    found: list[Gpu] = []
    for line in text.splitlines():
        columns = [column.strip() for column in line.rsplit(",", 2)]
        if len(columns) != 3 or not columns[0]:
            continue
        name, memory, capability = columns
        major, _, minor = capability.partition(".")
        known = major.isdigit() and minor.isdigit() and len(capability) <= 8
        version = (int(major), int(minor)) if known else None
        found.append(
            Gpu(
                vendor="nvidia",
                model=name[:100],
                memory_bytes=int(memory) * 2**20
                if memory.isdigit() and 0 < len(memory) <= 9 and int(memory)
                else None,
                compute_capability=version,
                # Since Volta, but for the GTX 16 series of Turing.
                tensor_cores=None if version is None else version >= (7, 0) and "GTX 16" not in name,
            )
        )
    return found


PROBE = Probe("gpu", ("gpus",), read)
