"""What differs from machine to machine, read from the environment (and a ``.env`` file) at an entry point."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipeline.origins import parse_origins


class Settings(BaseSettings):
    """Limits, folders and log level. Make it at an entry point and hand it on; never at import."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", populate_by_name=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=1, le=65535, description="Port to listen on.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Level of the service's log.")

    log_file: Path | None = Field(None, description="File that the service's log goes to as well; none by default.")
    cors_origins: str = Field(
        "", description="Origins whose pages may call this service, separated by commas, or *; none by default."
    )

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, text: str) -> str:
        parse_origins(text)
        return text

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, level: object) -> object:
        return level.lower() if isinstance(level, str) else level

    work_dir: str = Field(
        "data", min_length=1, description="Folder of the jobs' files and of jobs.db, or s3://bucket/prefix."
    )
    work_dir_max_gb: float = Field(0, ge=0, description="Most the jobs' files may take together, GiB; 0 is no limit.")
    work_dir_min_free_gb: float = Field(1, ge=0, description="Room to leave on the disk of WORK_DIR, GiB.")
    database_url: str | None = Field(
        None, description="SQLAlchemy URL of the jobs' database, instead of WORK_DIR/jobs.db."
    )
    models_dir: Path = Field(Path("models"), description="Folder of downloaded model weights.")
    clearcut_download: bool = Field(True, description="Whether serve.sh fetches weights that MODELS_DIR lacks.")
    birefnet_model_path: Path | None = Field(None, description="BiRefNet's weights, instead of a file in MODELS_DIR.")
    mobile_sam_checkpoint: Path | None = Field(None, description="MobileSAM's weights, likewise.")

    @field_validator(
        "birefnet_model_path",
        "mobile_sam_checkpoint",
        "database_url",
        "decoder_processes",
        "redis_url",
        "api_key_secret",
        "log_file",
        mode="before",
    )
    @classmethod
    def _none_if_empty(cls, value: object) -> object:
        return None if value == "" else value  # an empty variable would name the current folder

    max_image_size: int = Field(1024, ge=0, description="Longest side a job works at, in pixels; 0 keeps the original.")
    job_ttl_hours: float = Field(24, gt=0, description="Hours until a job and its files are deleted.")
    max_running_jobs: int = Field(4, ge=1, description="Jobs worked on at once.")
    max_waiting_jobs: int = Field(1000, ge=1, description="Jobs that may wait; more are refused with 503.")

    callback_hosts: str = Field(
        "", description="Hosts that callback_url may name, separated by commas; none by default."
    )
    callback_secret: SecretStr | None = Field(None, description="Key of the signatures of callbacks.")
    callback_private_networks: str = Field(
        "", description="Private networks (CIDRs, separated by commas) that callbacks may reach; none by default."
    )

    api_key_secret: SecretStr | None = Field(
        None, description="What API keys are hashed with, instead of a secret in the jobs' database."
    )
    require_api_key: bool = Field(False, description="Whether requests without an API key are refused.")
    trusted_proxies: str = Field(
        "", description="Proxies (CIDRs, separated by commas) whose X-Forwarded-For is believed; none by default."
    )
    rate_limit_per_minute: int = Field(
        30,
        ge=0,
        validation_alias=AliasChoices("rate_limit_per_minute", "birefnet_rate_limit_per_minute"),
        description="Requests a minute without an API key; 0 turns off every limit, those of keys too.",
    )
    redis_url: str | None = Field(None, description="Redis that counts requests, instead of an actor of the cluster.")

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, text: str) -> str:
        for network in filter(None, map(str.strip, text.split(","))):
            ipaddress.ip_network(network, strict=False)  # says itself what is wrong
        return text

    birefnet_max_image_size_mb: float = Field(10, gt=0, description="Largest upload of background removal, MiB.")
    upload_max_size_mb: float = Field(50, gt=0, description="Largest upload of a job, MiB.")
    upload_timeout_s: float = Field(
        60,
        gt=0,
        description="Seconds a body may take, plus one for every 16 KiB it has sent; half of it without a byte is the"
        " end too.",
    )
    birefnet_max_megapixels: float = Field(50, gt=0, description="Most pixels of any image, millions.")
    decoder_processes: int | None = Field(
        None,
        ge=0,
        description="Processes that unpack uploads; one per processor, up to four, unless set. 0: none.",
    )
    birefnet_processing_timeout_sec: float = Field(30, gt=0, description="Deadline of one background removal, s.")
    max_removals_in_flight: int = Field(
        0, ge=0, description="Removals one ingress replica works on at once; 0 follows from their latencies."
    )
    request_memory_mb: float = Field(
        1024, gt=0, description="Memory that bodies and pictures may take in one ingress replica, MiB."
    )
