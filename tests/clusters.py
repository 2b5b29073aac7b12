"""Addresses for the tasks of a cluster on this machine."""

from __future__ import annotations

import socket


def free_addresses(**tasks: int) -> dict[str, list[str]]:
    """So many free loopback ports for each type of task, as `TF_CONFIG` lists them."""
    sockets = {task: [socket.create_server(("127.0.0.1", 0)) for _ in range(count)] for task, count in tasks.items()}
    addresses = {task: [f"127.0.0.1:{each.getsockname()[1]}" for each in held] for task, held in sockets.items()}
    for each in (each for held in sockets.values() for each in held):
        each.close()
    return addresses
