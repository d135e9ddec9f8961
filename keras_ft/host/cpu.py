"""What the processor can do."""


def flags() -> set[str]:
    """Words of /proc/cpuinfo: vendor, names of features; empty where there is none."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            return {flag for line in stream if ":" in line for flag in line.split()}
    except OSError:
        return set()
