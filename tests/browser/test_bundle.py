"""The committed bundle: small, alone, and with the licences of what is in it."""

import json
import re

from .conftest import ROOT

STATIC = ROOT / "src/eyas/viewer/static"
FILES = ["assets/viewer.css", "assets/viewer.js", "index.html", "licenses.txt"]


def test_the_bundle_is_these_files_and_smaller_than_250_kb() -> None:
    found = sorted(str(path.relative_to(STATIC)) for path in STATIC.rglob("*") if path.is_file())
    assert found == FILES
    assert sum((STATIC / name).stat().st_size for name in FILES) < 250_000


def test_the_bundle_asks_no_other_host_and_can_stand_inside_a_page() -> None:
    script = (STATIC / "assets/viewer.js").read_text()
    assert "</script" not in script.lower()
    hosts = set(re.findall(r"https?://([\w.-]+)", script + (STATIC / "assets/viewer.css").read_text()))
    assert hosts <= {"www.w3.org"}  # the names of XML namespaces, which nobody asks for
    assert not re.search(r"\beval\(|new Function\(|dangerouslySetInnerHTML=", script)


def test_the_licence_of_every_bundled_package_is_listed() -> None:
    package = json.loads((ROOT / "frontend/package.json").read_text())
    text = (STATIC / "licenses.txt").read_text()
    for name, version in package["dependencies"].items():
        assert f"{name} {version} (" in text
    assert text.count("Permission is hereby granted") == len(package["dependencies"])


def test_every_version_is_pinned() -> None:
    package = json.loads((ROOT / "frontend/package.json").read_text())
    for version in (package["dependencies"] | package["devDependencies"]).values():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version)
