"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import rich_click as click

Function = TypeVar("Function", bound=Callable[..., object])


def set_option(scopes: str) -> Callable[[Function], Function]:
    """``--set SCOPE.NAME=VALUE``, repeatable."""
    return click.option(
        "--set", "assignments", multiple=True, metavar="SCOPE.NAME=VALUE", help=f"Change one setting; scopes: {scopes}."
    )


def device_option(function: Function) -> Function:
    """``--device``: checked by :func:`mibench.system.devices.choose_device`, which knows what is available."""
    return click.option(
        "--device", default="auto", show_default=True, metavar="auto|cpu|cuda", help="Device to compute on."
    )(function)


def access_option(function: Function) -> Function:
    """``--access``: an attack that needs more is refused."""
    return click.option(
        "--access",
        type=click.Choice(["labels", "scores", "gradients"]),
        help="Highest access level granted to the attack.  [default: the protocol's]",
    )(function)


def json_option(function: Function) -> Function:
    """``--json``: machine-readable output."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def output_option(default: str | None, text: str) -> Callable[[Function], Function]:
    """``--output``: a folder or a file."""
    return click.option(
        "--output", type=click.Path(path_type=Path), default=default, show_default=default is not None, help=text
    )


def plugin_option(function: Function) -> Function:
    """``--plugin``: before anything else is read, since the other words may name what it brings."""

    def add(context: click.Context, option: click.Parameter, paths: tuple[str, ...]) -> None:
        from mibench import registry

        for path in paths:
            registry.add_plugin(path)

    return click.option(
        "--plugin",
        multiple=True,
        metavar="PATH",
        is_eager=True,
        expose_value=False,
        callback=add,
        help="Load a package folder or .py file with a CATALOGUE that is not installed.",
    )(function)
