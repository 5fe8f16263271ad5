"""``python -m autocompress``."""

from __future__ import annotations

from autocompress.cli import main

if __name__ == "__main__":
    main()
