"""The wheel and the sdist work without the checkout that they were built from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from deploy.simulate import HEAD_KEPT

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both; the sdist is built from the checkout, the wheel from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode in (0, HEAD_KEPT), done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, in which everything else is that of this one."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False)
    (wheel,) = built.glob("*.whl")
    command = [sys.executable, "-m", "pip", "--python", str(home), "install", "--quiet", "--no-deps", "--no-index"]
    done = subprocess.run([*command, str(wheel)], capture_output=True, text=True)
    assert done.returncode in (0, HEAD_KEPT), done.stdout + done.stderr
    own = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    # A folder to look in last. The .pth files in it, such as that of an editable installation, do not count.
    (own / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home


def run(home: Path, folder: Path, *command: str) -> str:
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [home / "bin" / command[0], *command[1:]], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode in (0, HEAD_KEPT), done.stdout + done.stderr
    return done.stdout


def test_commands_and_weights_come_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    source = "import common, deltamask_client, deltamask_server as s; print(common.__file__, s.__file__)"
    where = run(installed, tmp_path, "python", "-c", source)
    assert all(path.startswith(str(installed)) for path in where.split())
    assert "983,040 masked weights" in run(installed, tmp_path, "deltamask", "model", "letters-vit")
    source = "from common.models.letters import find_letters_weights as f; p = f(); print(p, p.is_file())"
    assert run(installed, tmp_path, "python", "-c", source).split()[-1] == "True"
    assert str(installed) in run(installed, tmp_path, "python", "-c", source)


def test_nothing_that_does_not_belong_is_packed(built: Path) -> None:
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    with tarfile.open(sdist) as archive:
        names = [name.split("/", 1)[1] for name in archive.getnames() if "/" in name]
    assert {top for top in tops if not top.startswith("deltamask-")} == {
        "common",
        "deltamask_client",
        "deltamask_server",
    }
    assert {"pyproject.toml", "Makefile", "README.md", "LICENSE", "docker/Dockerfile", "deploy/tls/keys.sh"} <= set(
        names
    )
    odd = (".venv", "runs/", "keys/", ".git/", "__pycache__", ".key", ".pem")
    assert not [name for name in names if name.startswith(odd) or name.endswith(odd)]


@pytest.mark.slow
def test_the_unpacked_sdist_is_a_whole_app(built: Path, tmp_path: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (app,) = tmp_path.glob("deltamask-*")
    config = "train-limit=120 test-limit=60 local-epochs=1 num-server-rounds=1"
    command = [sys.executable, str(app / "deploy" / "simulate.py"), "--supernodes", "2", "--run-config", config]
    env = os.environ | {
        "PYTHONPATH": str(app),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, HEAD_KEPT), done.stdout + done.stderr
    results = json.loads((work / "runs" / "latest" / "results.json").read_text())
    assert results["status"] == "completed"
