"""Refuses a wheel that is not what is meant to be shipped: `python .ci/inspect_wheel.py dist/*.whl [--version 0.2.0]`.

Needs nothing but the standard library, so that it runs wherever a wheel is built.
"""

from __future__ import annotations

import argparse
import re
import struct
import zipfile
from email.parser import Parser
from pathlib import Path

KERNELS = Path(__file__).resolve().parents[1] / "kernels" / "fused"
LARGEST = 6_000_000  # bytes
NEEDED = {"distilfast/__init__.py", "distilfast/_core.pyi", "distilfast/py.typed"}
EXTENSIONS = {"distilfast/_core.abi3.so", "distilfast/_core.pyd"}


def faults(path: Path, version: str | None = None) -> list[str]:
    """What is wrong with the wheel at `path`, a sentence each."""
    found = []
    if path.stat().st_size >= LARGEST:
        found.append(f"it has {path.stat().st_size:,} bytes; {LARGEST:,} are the most")
    if "-cp310-abi3-" not in path.name:
        found.append("its name does not say cp310-abi3: it is not one wheel for every Python")
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        # maturin does not walk into linked folders, and a glob in its `include` that matches nothing says nothing.
        needed = NEEDED | {f"distilfast/fused/{kernel.name}" for kernel in KERNELS.glob("*.py")}
        found += [f"{name} is missing" for name in sorted(needed - names)]
        foreign = {name.split("/")[0] for name in names if not re.match(r"distilfast(-[^/]+\.dist-info)?/", name)}
        found += [f"{name} stands at its top, where another package may stand" for name in sorted(foreign)]
        found += [f"{name} is a bill of materials that nobody asked for" for name in sorted(names) if "/sboms/" in name]
        extensions = names & EXTENSIONS
        if len(extensions) != 1:
            found.append(f"it has {len(extensions)} compiled modules where one is meant")
        for name in extensions:
            sections = elf_sections(wheel.read(name))
            left = sorted(sections & {".symtab", ".debug_info"})
            found += [f"{name} is not stripped: it has {section}" for section in left]
        about = [name for name in names if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(wheel.read(about[0]).decode()) if about else {}
        if version is not None and metadata.get("Version") != version:
            found.append(f"it says version {metadata.get('Version')}, the tag {version}")
        if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
            found.append("its license is missing")
    return found


def elf_sections(binary: bytes) -> set[str]:
    """The names of the sections of a 64-bit ELF file; none of another kind of file."""
    if binary[:5] != b"\x7fELF\x02":
        return set()
    (table,) = struct.unpack_from("<Q", binary, 0x28)
    size, count, names = struct.unpack_from("<HHH", binary, 0x3A)
    headers = [struct.unpack_from("<IIQQQ", binary, table + size * number) for number in range(count)]
    start = headers[names][4]
    return {binary[start + each[0] : binary.index(b"\0", start + each[0])].decode() for each in headers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheels", nargs="+", type=Path)
    parser.add_argument("--version", help="what the wheel must say, as in its tag")
    given = parser.parse_args()
    wrong = [f"{path.name}: {fault}" for path in given.wheels for fault in faults(path, given.version)]
    print("\n".join(wrong or [f"{path.name}: {path.stat().st_size:,} bytes, as meant" for path in given.wheels]))
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
