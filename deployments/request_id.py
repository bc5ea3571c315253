"""What an id that a client gives its request may look like: it goes into headers and logs."""

from __future__ import annotations

import re

SAFE_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
