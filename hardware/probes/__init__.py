"""The probes we ship. The plugin `supervm.plugins.probes` declares them, like any other plugin's."""

from supervm.hardware.probes import cpu, deep, disk, gpu, host, memory, network, power

BUILTIN = (
    cpu.PROBE,
    memory.PROBE,
    disk.PROBE,
    network.PROBE,
    gpu.PROBE,
    power.PROBE,
    host.PROBE,
    *deep.PROBES,
)
