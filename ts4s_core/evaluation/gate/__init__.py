"""Whether a new version replaces the champion."""
