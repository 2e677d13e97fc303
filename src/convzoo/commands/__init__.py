"""The commands of ``python -m convzoo``: each module adds its own by ``add_commands(subparsers)``."""
