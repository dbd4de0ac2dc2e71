"""Faults of a node itself: images, disk, device, settings; and the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.config.cache_path import default_cache_path
from deltamask_server.tools.doctor import Setting, Status
from deltamask_server.tools.doctor.data import check_data
from deltamask_server.tools.doctor.setting import read_settings
from tests.doctor.checks import findings, run, the_fault
from tests.images import write_folder

ROOT = Path(__file__).parents[2]


# -- Images ------------------------------------------------------------------------------------------------------------


def test_a_missing_data_folder(setting: Setting, tmp_path: Path) -> None:
    setting.data = f"folder:{tmp_path / 'nowhere'}"
    fault = the_fault(setting)
    assert (fault.check, fault.status) == ("data", Status.failed)
    assert "no folder at" in fault.found


def test_a_folder_without_class_folders(setting: Setting, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "deep", {"apple": 2}) / "apple"
    setting.data = f"folder:{folder}"
    fault = the_fault(setting)
    assert (fault.check, fault.status) == ("data", Status.failed)
    assert "it needs a sub-folder for each class" in fault.found


def test_a_class_without_images(setting: Setting, tmp_path: Path) -> None:
    (tmp_path / "images" / "sea").mkdir()
    fault = the_fault(setting)
    assert (fault.check, fault.status) == ("data: files", Status.warning)
    assert "no image in sea: no class" in fault.found


def test_images_that_are_broken(setting: Setting, tmp_path: Path) -> None:
    (tmp_path / "images" / "apple" / "half.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    fault = the_fault(setting)
    assert (fault.check, fault.status) == ("data: images", Status.warning)
    assert "6 of 6 decoded: mean" in fault.found
    assert "1 cannot be read (apple/half.jpg); 0 show next to nothing" in fault.found


def test_images_that_show_nothing(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", {"apple": 2})
    Image.new("L", (50, 40), 255).save(root / "apple" / "blank.png")
    Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16)).save(root / "apple" / "dark.tif")
    about, files, images = check_data(f"folder:{root}", tmp_path)
    assert [each.status for each in (about, files, images)] == [Status.ok, Status.ok, Status.warning]
    assert "4 images of 1 classes" in about.found
    assert "2 show next to nothing (apple/" in images.found
    assert "modes RGB (2), " in images.found
    np.savez(tmp_path / "own.npz", x_train=np.zeros((7, 8, 9), np.uint8), y_train=np.arange(7))
    _, images = check_data(f"npz:{tmp_path}/own.npz", tmp_path)
    assert images.found == (
        "7 of 7 decoded: mean 0, range 0 .. 0, sizes 9 x 8 (7); 0 cannot be read; 7 show next to nothing (image 0, "
        "image 1, image 2)"
    )


def test_files_that_are_not_used(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", {"apple": 4, "fern": 1})
    (root / "apple" / "copy.dat").write_bytes(next((root / "fern").iterdir()).read_bytes())
    (root / "apple" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    _, files, images = check_data(f"folder:{root}", tmp_path)
    assert (files.status, images.status) == (Status.warning, Status.ok)
    assert "6 images used; passed over: 1 HEIC (apple/phone.heic)" in files.found
    assert "1 are copies of another one, 1 of them in another class (apple/copy.dat and fern/0-000.png)" in files.found


def test_a_class_folder_that_may_not_be_read() -> None:
    with tempfile.TemporaryDirectory() as name:  # not tmp_path, whose parents are for their owner only
        root = write_folder(Path(name), {"apple": 2, "fern": 2})
        root.chmod(0o755)
        (root / "apple").chmod(0)
        account = os.geteuid()
        if account == 0:
            os.seteuid(65534)  # root may read everything, and this is the account `nobody`
        try:
            (fault,) = check_data(f"folder:{root}", root)
        finally:
            os.seteuid(account)
            (root / "apple").chmod(0o700)
    assert (fault.check, fault.status) == ("data", Status.failed)
    assert f"{root / 'apple'} cannot be read by account" in fault.found


# -- The machine -------------------------------------------------------------------------------------------------------


def test_a_disk_with_too_little_room(setting: Setting) -> None:
    setting.free_disk_gb = 1e9
    bad = [each for each in findings(setting) if each.status != Status.ok]
    assert [each.check for each in bad] == ["disk: Flower", "disk: cache"]
    assert all("GB needed" in each.found for each in bad)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_full_disk(setting: Setting, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        (disk / "ballast").write_bytes(b"0" * 65536)
        setting.cache, setting.free_disk_gb = disk / "cache", 0
        fault = the_fault(setting)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert (fault.check, fault.status) == ("disk: cache", Status.failed)
    assert "nothing can be written: No space left" in fault.found


def test_numba_without_a_place_for_its_cache() -> None:
    # As for an account without a home, beside code that only root may change: nothing but NUMBA_CACHE_DIR is tried.
    env = {**os.environ, "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator", "NUMBA_CACHE_DIR": ""}
    command = [sys.executable, "-m", "deltamask_server.tools.cli", "doctor", "--device", "cpu", "--json"]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    bad = [each for each in json.loads(done.stdout)["findings"] if each["status"] == "failed"]
    assert [each["check"] for each in bad] == ["libraries"]
    assert "NUMBA_CACHE_DIR" in bad[0]["advice"]


def test_a_device_that_is_not_there(setting: Setting) -> None:
    setting.device = "cuda:77"
    fault = the_fault(setting)
    assert (fault.check, fault.status) == ("device", Status.failed)
    assert "cuda:77 does not compute" in fault.found


# -- The command -------------------------------------------------------------------------------------------------------


def options(setting: Setting) -> list[str]:
    chosen = ["--superlink", str(setting.superlink), "--root-certificates", str(setting.root_certificates)]
    chosen += ["--auth-key", str(setting.auth_key), "--facts", str(setting.facts), "--device", "cpu"]
    return [*chosen, "--data", setting.data.removeprefix("folder:"), "--free-disk-gb", "0.001"]


def test_the_command_says_what_to_do(setting: Setting) -> None:
    good = run(*options(setting))
    assert good.exit_code == 0, good.output
    assert "18 checks, 0 failed" in good.output
    assert setting.auth_key
    setting.auth_key.chmod(0o644)
    bad = run(*options(setting))
    assert bad.exit_code == 1
    assert "failed" in bad.output
    assert "-> chmod 600" in bad.output
    report = json.loads(run(*options(setting), "--json").output)
    assert report["ok"] is False
    assert [each["check"] for each in report["findings"] if each["status"] == "failed"] == ["key"]


def test_settings_of_an_installed_node(setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLWR_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "/nowhere")  # what the file says is set, and undone behind this test
    file = tmp_path / "supernode.env"
    security = f"--root-certificates {setting.root_certificates} --auth-supernode-private-key {setting.auth_key}"
    lines = {
        "DELTAMASK_SUPERLINK": str(setting.superlink),
        "DELTAMASK_SECURITY": security,
        "DELTAMASK_DATA": setting.data,
        "DELTAMASK_FACTS": str(setting.facts),
        "DELTAMASK_NODE_OPTIONS": "device='cpu' batch-size=8",
        "FLWR_HOME": str(tmp_path / "flwr"),
        "XDG_CACHE_HOME": str(tmp_path / "caches"),
    }
    file.write_text("# a comment\n" + "".join(f'{name}="{value}"\n' for name, value in lines.items()))
    found = read_settings(file)
    expected = Setting(
        superlink=setting.superlink,
        root_certificates=setting.root_certificates,
        auth_key=setting.auth_key,
        data=setting.data,
        device="cpu",
        facts=setting.facts,
        flwr_home=tmp_path / "flwr",
    )
    assert found == expected
    assert default_cache_path() == tmp_path / "caches" / "deltamask"
    done = run("--config", file, "--free-disk-gb", "0.001")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "No such file"),
        ("FLWR_HOME=/tmp\n", "neither DELTAMASK_SUPERLINK nor DELTAMASK_FLEET"),
        ('DELTAMASK_SUPERLINK="server\n', "line 1: No closing quotation"),
        ("DELTAMASK_SUPERLINK=server\n", "HOST:PORT is needed"),
        ("a b c\n", 'NAME="value" is needed'),
    ],
)
def test_settings_that_are_none(tmp_path: Path, content: str | None, expected: str) -> None:
    file = tmp_path / "supernode.env"
    if content is not None:
        file.write_text(content)
    done = run("--config", file)
    assert done.exit_code == 2
    assert expected in done.output


@pytest.mark.parametrize("address", ["server", "server:", ":9092", "server:0", "server:99999", "server:http"])
def test_addresses_that_are_none(address: str) -> None:
    done = run("--superlink", address, "--insecure")
    assert done.exit_code == 2
    assert "HOST:PORT is needed" in done.output


def test_tls_is_not_skipped_by_silence() -> None:
    done = run("--superlink", "127.0.0.1:9092")
    assert done.exit_code == 2
    assert "--root-certificates FILE is needed" in done.output
