"""The same as the command ``deltamask``, where the project is not installed: ``python -m deltamask_server.cli``."""

from __future__ import annotations

from deltamask_server.cli import main

if __name__ == "__main__":
    main()
