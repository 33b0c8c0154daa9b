"""`tramontane settings`: every setting as a markdown table, as the README shows it."""

import argparse
from collections.abc import Mapping

from deploy import settings

SUMMARY = "print every setting as a markdown table"
CONFIGS: tuple[settings.Config, ...] = ()


def add_flags(parser: argparse.ArgumentParser) -> None:
    """`settings` has no flags."""


def main(values: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print the table."""
    print(settings.markdown_table())
    return 0
