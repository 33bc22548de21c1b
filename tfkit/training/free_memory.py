"""The memory that this process holds, and the memory that the machine, the control groups and `ulimit -v` still let it allocate."""

import contextlib
import resource
import sys
from pathlib import Path

_ROOT = Path("/")
_PAGE = resource.getpagesize()


def available_bytes(swap: bool = False) -> int | None:
    """Return how many bytes this process may still allocate: the smallest of the memory that is free on the machine (plus its free swap if
    `swap`), in the control groups, and below the limit of `ulimit -v`. None if all three are unknown.
    """
    known = [limit for limit in (_machine(swap), _control_group(), _address_space()) if limit is not None]
    return max(0, min(known)) if known else None


def resident_bytes() -> int | None:
    """Return the resident memory of this process in bytes; None without /proc."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int((_ROOT / "proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE
    return None


def _machine(swap: bool) -> int | None:
    """Return the bytes that the machine can allocate without swapping or, with `swap`, also in its free swap; None without /proc."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = (line.split() for line in (_ROOT / "proc/meminfo").read_text(encoding="ascii").splitlines())
        fields = {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines}
        return fields["MemAvailable"] + (fields.get("SwapFree", 0) if swap else 0)
    return None


def _control_group() -> int | None:
    """Return the bytes left in this process's control groups (cgroups version 2 or 1), such as a container's; None without a limit."""
    left = []
    for limit, usage, stat in _control_group_files():
        with contextlib.suppress(OSError, ValueError):
            maximum = int(limit.read_text(encoding="ascii"))  # ValueError for "max"
            if maximum < 1 << 60:  # without a limit, version 1 writes a larger number
                left.append(maximum - int(usage.read_text(encoding="ascii")) + _reclaimable(stat))
    return min(left, default=None)


def _control_group_files() -> list[tuple[Path, Path, Path]]:
    """Return the files with the limit, the usage and the statistics of each control group of this process, and of the groups above it."""
    files = []
    with contextlib.suppress(OSError):
        for line in (_ROOT / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                root, limit, usage = _ROOT / "sys/fs/cgroup", "memory.max", "memory.current"
            elif "memory" in controllers.split(","):
                root, limit, usage = _ROOT / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            else:
                continue
            group = root / path.lstrip("/")
            folders = [folder for folder in (group, *group.parents) if folder.is_relative_to(root)]
            files += [(folder / limit, folder / usage, folder / "memory.stat") for folder in folders]
    return files


def _reclaimable(stat: Path) -> int:
    """Return the bytes of a control group's inactive page cache, from its file `stat`: they count as used, but are freed on demand."""
    for line in stat.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0


def _address_space() -> int | None:
    """Return the bytes of address space that `ulimit -v` leaves; None without such a limit, or outside Linux."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY or sys.platform != "linux":
        return None
    with contextlib.suppress(OSError, ValueError):
        return limit - int((_ROOT / "proc/self/statm").read_text(encoding="ascii").split()[0]) * _PAGE
    return None
