"""What is shipped: the wheel holds the kernels and nothing foreign, and works without the repository."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import distilfast
import inspect_wheel
import published_links
import pytest

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ["prepare", "train", "evaluate", "export", "ablate", "bench", "demo"]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the tree, in the release profile (the build that `make` left is reused)."""
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "maturin", "build", "--release", "--locked", "--out", str(out)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def clean_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with the wheel installed, the dependencies borrowed and no repository."""
    environment = tmp_path_factory.mktemp("clean")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    # A path file adds the folder of the dependencies without running the path files in it, so that an editable
    # install of this repository there stays unseen.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(install, check=True)
    return environment / "bin" / "python"


def run_clean(python: Path, arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run([str(python), *arguments], cwd=cwd, env=environment, capture_output=True, text=True)


def test_wheel_is_what_is_meant_to_be_shipped(wheel: Path) -> None:
    assert inspect_wheel.faults(wheel, distilfast.__version__) == []


def test_a_wheel_that_is_not_is_told_by_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "distilfast-0.2.0-cp311-cp311-linux_x86_64.whl"
    names = dict.fromkeys((*inspect_wheel.NEEDED, "distilfast/_core.abi3.so"), b"")
    names |= {
        "kernels/fused/rows.py": b"",
        "distilfast-0.2.0.dist-info/METADATA": b"Name: distilfast\nVersion: 0.1.9\n",
    }
    names |= {"distilfast-0.2.0.dist-info/sboms/distilfast.cyclonedx.json": b"{}"}
    names["distilfast/_core.abi3.so"] = elf(["", ".text", ".symtab"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    found = "\n".join(inspect_wheel.faults(path, "0.2.0"))
    for fault in (
        "cp310-abi3",
        "distilfast/fused/rows.py is missing",
        "kernels stands at its top",
        "bill of materials",
        "not stripped: it has .symtab",
        "says version 0.1.9, the tag 0.2.0",
        "license is missing",
    ):
        assert fault in found
    path.write_bytes(b" " * inspect_wheel.LARGEST + path.read_bytes())
    assert "bytes; 6,000,000 are the most" in "\n".join(inspect_wheel.faults(path))


def elf(sections: list[str]) -> bytes:
    """A 64-bit ELF file that has these sections, empty but for the last: their names."""
    names = b"\0".join(name.encode() for name in [*sections, ".shstrtab"]) + b"\0"
    offsets = [names.index(name.encode() + b"\0") for name in [*sections, ".shstrtab"]]
    headers = b"".join(struct.pack("<IIQQQQIIQQ", offset, 1, 0, 0, 64, len(names), 0, 0, 1, 0) for offset in offsets)
    head = b"\x7fELF\x02\x01\x01".ljust(0x28, b"\0") + struct.pack("<Q", 64 + len(names)) + bytes(10)
    return head + struct.pack("<HHH", 64, len(offsets), len(offsets) - 1) + names + headers


def test_a_released_readme_has_no_link_that_leads_nowhere() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    page = published_links.absolute(readme, "owner/name", "v9.9.9")
    targets = re.findall(r"\]\(([^)\s]+)\)", page)
    assert targets
    assert all("://" in target or target.startswith("#") for target in targets)
    assert published_links.absolute(page, "other/name", "v1") == page
    picture = published_links.absolute("![a](docs/a.png) and [b](docs/b.md#c)", "o/n", "v1")
    assert picture == (
        "![a](https://github.com/o/n/raw/v1/docs/a.png) and [b](https://github.com/o/n/blob/v1/docs/b.md#c)"
    )


def test_a_released_project_names_its_repository() -> None:
    tomllib = pytest.importorskip("tomllib")
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    before, after = tomllib.loads(text), tomllib.loads(published_links.with_urls(text, "owner/name", "v9.9.9"))
    assert after["project"].pop("urls")["Repository"] == "https://github.com/owner/name"
    assert before == after


def test_sdist_holds_what_builds_it(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "maturin", "sdist", "--out", str(tmp_path)], cwd=ROOT, check=True, capture_output=True
    )
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for rust in (ROOT / "rust").rglob("*.rs"):
        assert str(rust.relative_to(ROOT)) in names
    for kernel in (ROOT / "kernels" / "fused").glob("*.py"):
        assert f"python/distilfast/fused/{kernel.name}" in names
    assert {"Cargo.toml", "Cargo.lock", "pyproject.toml"} <= names


def test_wheel_imports_without_the_repository(clean_python: Path, tmp_path: Path) -> None:
    code = "import distilfast, distilfast.losses, distilfast._core as core; print(distilfast.__file__, core.__file__)"
    done = run_clean(clean_python, ["-c", code], tmp_path)
    assert done.returncode == 0, done.stderr
    assert str(ROOT) not in done.stdout


def test_every_command_explains_itself(clean_python: Path, tmp_path: Path) -> None:
    for command in COMMANDS:
        done = run_clean(clean_python, ["-m", f"distilfast.{command}", "--help"], tmp_path)
        assert done.returncode == 0, done.stderr
        assert "usage:" in done.stdout


def test_wheel_trains_without_the_repository(clean_python: Path, tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(40)]
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n")
    lines = [" ".join(words[(row * step) % 40] for step in range(1, 15)) for row in range(60)]
    (tmp_path / "text.txt").write_text("\n".join(lines) + "\n")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    (tmp_path / "teacher.json").write_text(json.dumps({"model_type": "bert", "max_position_embeddings": 32, **sizes}))
    shared = ["--max_length", "32", "--batch_tokens", "256", "--max_steps", "2", "--report_to", "none"]
    for arguments in (
        ["prepare", "--text", "text.txt", "--tokenizer", "vocab.txt", "--output_dir", "tokens", "--max_length", "32"],
        ["train", "--student_config", "teacher.json", "--tokens", "tokens", "--output_dir", "teacher", *shared],
        ["train", "--teacher", "teacher", "--tokens", "tokens", "--output_dir", "student", *shared],
    ):
        done = run_clean(clean_python, ["-m", f"distilfast.{arguments[0]}", *arguments[1:]], tmp_path)
        assert done.returncode == 0, done.stderr
    code = "from transformers import AutoModelForMaskedLM as A; print(A.from_pretrained('student').config.n_layers)"
    done = run_clean(clean_python, ["-c", code], tmp_path)
    assert done.stdout.strip() == "1", done.stderr


def test_kernels_folder_never_shadows_the_package_of_that_name() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_kernels_import_nothing_of_ours() -> None:
    for path in (ROOT / "kernels" / "fused").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            assert not any(name.split(".")[0] == "distilfast" for name in names), path


def test_classes_at_the_border_are_frozen() -> None:
    for path in (ROOT / "rust" / "python").glob("*.rs"):
        for attributes in re.findall(r"#\[pyclass(\(.*?\))?\]", path.read_text(), flags=re.DOTALL):
            assert "frozen" in attributes, f"{path.name}: #[pyclass{attributes}]"


def test_only_the_border_names_python() -> None:
    inside = [path for path in (ROOT / "rust").rglob("*.rs") if path.parent.name != "python" and path.name != "lib.rs"]
    assert len(inside) > 20
    for path in inside:
        assert "pyo3" not in path.read_text(), path


def test_no_file_has_become_two_things() -> None:
    for folder, pattern in (("rust", "*.rs"), ("python", "*.py"), ("kernels", "*.py"), ("tests", "*.py")):
        for path in (ROOT / folder).rglob(pattern):
            if "tables" not in path.name and "generated" not in path.name:
                assert len(path.read_text().splitlines()) <= 400, path


def test_the_layers_hold() -> None:
    """Which folder may import which, and that there is no circle, as pyproject.toml says."""
    command = Path(sys.executable).with_name("lint-imports")
    if not command.exists():
        pytest.skip("import-linter is not installed")
    flags = ["--no-cache", str(ROOT / "pyproject.toml")]
    done = subprocess.run([str(command), *flags], cwd=ROOT / "python", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_no_pin_contradicts_what_is_required() -> None:
    """A CPU build of torch, 2.15.0+cpu, satisfies its pin too; and every requirement allows its pin."""
    from packaging.requirements import Requirement

    text = (ROOT / "pyproject.toml").read_text()
    pins = {
        pin.name.lower(): pin
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
        for pin in [Requirement(line)]
    }
    block = text[text.index("dependencies = [") : text.index("[project.scripts]")]
    required = [Requirement(found) for found in re.findall(r'^  "([^"]+)"', block, flags=re.MULTILINE)]
    assert len(required) >= 13
    for each in required:
        (pin,) = pins[each.name].specifier
        assert each.specifier.contains(pin.version), f"{each} and {pins[each.name]}"
    assert pins["torch"].specifier.contains("2.15.0+cpu")


def test_the_executable_is_declared(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (entry_points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
    assert "distilfast=distilfast.__main__:main" in archive.read(entry_points).decode().replace(" ", "")


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="needs the git checkout")
def test_folder_link_is_a_link() -> None:
    link = ROOT / "python" / "distilfast" / "fused"
    assert link.is_symlink()
    assert os.readlink(link) == "../../kernels/fused"
