"""The version of the HTTP API."""

API_VERSION = "1.0.0"
