"""What is around the code says the same as the code."""

from __future__ import annotations

import re

import yaml

from segclip_deploy import __version__
from tests.conftest import ROOT

FORMS = ROOT / ".github" / "ISSUE_TEMPLATE"


def test_the_citation_is_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == __version__
    assert cited["license"] == "Apache-2.0"


def test_who_reports_a_fault_is_asked_what_the_machine_is() -> None:
    for form in ("bug", "dataset"):
        fields = {
            one.get("id"): one
            for one in yaml.safe_load((FORMS / f"{form}.yml").read_text())["body"]
        }
        assert "segclip-deploy doctor --json" in fields["doctor"]["attributes"]["description"]
        assert fields["doctor"]["validations"] == {"required": True}


def test_the_forms_of_the_support_page_are_there() -> None:
    names = {
        yaml.safe_load(path.read_text()).get("name")
        for path in FORMS.glob("*.yml")
        if path.stem != "config"
    }
    told = re.findall(
        r"^\| [^|]+ \| ([^|*]+) \| [^|]+ \|$", (ROOT / "SUPPORT.md").read_text(), re.M
    )
    assert set(told) - {"form", "---"} == names
