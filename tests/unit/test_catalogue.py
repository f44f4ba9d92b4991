"""The catalogue's file: what is understood is loaded, and what is not has its line."""

import subprocess
import sys
from pathlib import Path

import pytest

from services.provisioning.catalogue import DEFAULT, BadCatalogue, read
from tests.borders import examples, quoted

WHOLE = """
[plans.send_only]
price_units = 60
validity_months = 12
fax_number = false

[options.options_pack]
price_units = 30

[[fax_numbers]]
first = "+33199000000"
count = 10
"""


def test_the_products_own_file_is_understood() -> None:
    assert set(read(DEFAULT).plans) == {"send_receive", "send_only"}


@pytest.mark.parametrize(("change", "line"), [row[:2] for row in examples("the catalogue")])
def test_what_is_not_understood_has_one_clear_line(change: str, line: str, tmp_path: Path) -> None:
    file = tmp_path / "plans.toml"
    before, _, after = quoted(change).partition(" → ")
    assert WHOLE.count(before) == 1
    file.write_text(WHOLE.replace(before, after.replace("⏎", "\n")))
    with pytest.raises(BadCatalogue) as caught:
        read(file)
    assert str(caught.value).splitlines() == [f"{file}: {quoted(line)}"]


def test_the_command_ends_with_the_lines_and_not_with_a_traceback(tmp_path: Path) -> None:
    file = tmp_path / "plans.toml"
    file.write_text(WHOLE.replace("price_units", "prise_units"))
    program = [sys.executable, "-m", "services.provisioning.catalogue", str(file)]
    done = subprocess.run(program, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 1
    assert sorted(done.stderr.splitlines()) == sorted(
        f"{file}: {place}: {why}"
        for place, why in (
            ("plans.send_only.price_units", "is missing"),
            ("plans.send_only.prise_units", "is not known here"),
            ("options.options_pack.price_units", "is missing"),
            ("options.options_pack.prise_units", "is not known here"),
        )
    )
    for missing in (tmp_path / "gone.toml", tmp_path):
        with pytest.raises(BadCatalogue):
            read(missing)
    file.write_bytes(b"\xff")
    with pytest.raises(BadCatalogue):
        read(file)


def test_a_plan_and_an_option_can_be_off_sale(tmp_path: Path) -> None:
    file = tmp_path / "plans.toml"
    file.write_text(WHOLE.replace("price_units = 60", "price_units = 60\non_sale = false"))
    found = read(file)
    assert (found.plans["send_only"].on_sale, found.options["options_pack"].on_sale) == (False, True)
