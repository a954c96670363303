"""The playground's front door: configuration and navigation. Pages live in pages/."""

from ui import shell

shell.navigate()
