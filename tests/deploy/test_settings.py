"""The table of settings: complete, without contradictions, and the one that the README shows."""

from pathlib import Path

import pytest

from deploy import arguments, settings
from workers.environment import settings_of

README = Path(__file__).parents[2] / "README.md"
START, END = "<!-- settings -->", "<!-- /settings -->"


def test_the_readme_shows_the_table_of_the_code() -> None:
    shown = README.read_text("utf-8").partition(START)[2].partition(END)[0].strip()
    assert shown == settings.markdown_table(), (
        f"paste the output of `tramontane settings` between {START} and {END}"
    )


def test_every_setting_has_a_flag_and_a_row() -> None:
    table = settings.markdown_table()
    parser = arguments.Parser("x", "x")
    arguments.add_settings(parser, settings.READERS.values())
    flags = parser._option_string_actions
    for config in settings.READERS.values():
        for item in settings_of(config):
            assert f"`{item.variable}`" in table
            assert item.variable in {action.dest for action in flags.values()}


def test_no_two_variables_share_a_flag() -> None:
    names = [flag.name for flag in settings.flags_of(settings.READERS.values())]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize(("first", "second"), [("web", "worker")])
def test_roles_that_read_one_variable_agree_on_flag_and_default(first: str, second: str) -> None:
    by_variable = {item.variable: item for item in settings_of(settings.READERS[first])}
    for item in settings_of(settings.READERS[second]):
        if other := by_variable.get(item.variable):
            assert (item.flag, item.default) == (other.flag, other.default)
