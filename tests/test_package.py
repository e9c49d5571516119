"""What is shipped: the wheel holds the kernels and nothing foreign, and works without the repository."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

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


def test_wheel_holds_the_kernels_and_nothing_foreign(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for kernel in (ROOT / "kernels" / "fused").glob("*.py"):
        assert f"distilfast/fused/{kernel.name}" in names
    for needed in ("distilfast/py.typed", "distilfast/_core.pyi", "distilfast/_core.abi3.so"):
        assert needed in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    top = {name.split("/")[0] for name in names}
    assert all(re.fullmatch(r"distilfast(-.*)?", name) for name in top), f"foreign names at the top of the wheel: {top}"


def test_wheel_is_abi3(wheel: Path) -> None:
    assert "-cp310-abi3-" in wheel.name


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
