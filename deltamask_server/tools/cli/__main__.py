"""The command ``deltamask``, also where the project is not installed: ``python -m deltamask_server.tools.cli``."""

from __future__ import annotations

from deltamask_server.tools.cli import main

if __name__ == "__main__":
    main()
