"""What clients, clusters and futures look like in a notebook: tables of facts, right on light and dark pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from tilework.base.sizes import format_bytes

_CELL = "text-align:left;padding:2px 12px 2px 0"
_COLOURS = {"finished": "#2e9e5b", "running": "#2e9e5b", "pending": "#c98a1b", "error": "#d0453e"}


def future(key: str, status: str, kind: str | None) -> str:
    """A future, on one line."""
    about = f" <code>{escape(kind)}</code>" if kind else ""
    return f"<div>{_dot(status)} <b>Future</b> {escape(status)}{about} <code>{escape(key)}</code></div>"


def cluster(title: str, status: str, info: Mapping[str, Any] | None, dashboard: str | None) -> str:
    """A cluster or a client of one, with its workers. ``info`` is None if it cannot be asked."""
    head = f"<div>{_dot(status)} <b>{escape(title)}</b> {escape(status)}</div>"
    if info is None:
        return head
    workers = info["workers"].values()
    facts = [
        ("Address", f"<code>{escape(info['address'])}</code>"),
        ("Status page", _link(dashboard)),
        ("Workers", str(len(workers))),
        ("Threads", str(sum(worker["threads"] for worker in workers))),
        ("Memory for blocks", format_bytes(info["memory"])),
    ]
    rows = [
        (
            escape(str(worker["name"])),
            str(worker["pid"]),
            str(worker["threads"]),
            f"{format_bytes(worker['memory'])} of {format_bytes(worker['memory_limit'])}",
        )
        for worker in workers
    ]
    table = _table([("th", ("Worker", "Process", "Threads", "Memory")), *(("td", row) for row in rows)])
    return (
        f"{head}{_table([('td', fact) for fact in facts])}"
        f"<details><summary style='cursor:pointer'>{len(rows)} workers</summary>{table}</details>"
    )


def _table(rows: Iterable[tuple[str, Iterable[str]]]) -> str:
    lines = "".join(
        "<tr>" + "".join(f"<{tag} style='{_CELL}'>{cell}</{tag}>" for cell in cells) + "</tr>" for tag, cells in rows
    )
    return f"<table style='border-collapse:collapse;font:inherit;margin:4px 0 4px 16px'>{lines}</table>"


def _link(address: str | None) -> str:
    if address is None:
        return "none"
    shown = address.partition("?")[0]  # without the token
    return f"<a href='{escape(address, quote=True)}' target='_blank' style='color:inherit'>{escape(shown)}</a>"


def _dot(status: str) -> str:
    return f"<span style='color:{_COLOURS.get(status, '#8a8f98')}'>●</span>"
