"""Makes and ends API keys, also while the service runs:

api_keys.py create --tier pro --name bench | list | revoke NAME_OR_PREFIX | rotate NAME_OR_PREFIX [--grace HOURS]

``create`` and ``rotate`` print the key, and nothing else, to the standard output; it is kept as a hash and never shown
again. The service notices a new key at once and an ended one within 30 seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.config import Settings  # noqa: E402
from pipeline.errors import StorageError  # noqa: E402
from pipeline.jobs.api_keys import TIERS, ApiKey, ApiKeys, KeyProblem  # noqa: E402
from pipeline.jobs.location import database_url  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        settings = Settings(_env_file=ROOT / ".env")
        url = database_url(settings, relative_to=ROOT)
        secret = settings.api_key_secret
        with contextlib.closing(ApiKeys(url, secret=secret.get_secret_value() if secret else None)) as keys:
            return run(options, keys)
    except ValidationError as error:
        names = ", ".join(str(problem["loc"][0]).upper() for problem in error.errors())
        return fail(f"the environment or .env holds values that cannot be used: {names}")
    except (KeyProblem, ValueError) as error:
        return fail(str(error))
    except StorageError as error:
        return fail(f"{error.detail} (WORK_DIR and DATABASE_URL say where it is.)")
    except OSError as error:
        return fail(f"{error.filename}: {error.strerror}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0].splitlines()[0], epilog=(__doc__ or "").split("\n\n")[2]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    create = commands.add_parser("create", help="make a key and print it")
    create.add_argument("--name", required=True, help="what lists and logs call it")
    create.add_argument("--tier", choices=TIERS, default="free", help="how much it may do (default: free)")
    commands.add_parser("list", help="every key, without what is secret of it")
    revoke = commands.add_parser("revoke", help="end a key now")
    revoke.add_argument("key", metavar="NAME_OR_PREFIX")
    rotate = commands.add_parser("rotate", help="replace a key; what was made with the old one belongs to the new one")
    rotate.add_argument("key", metavar="NAME_OR_PREFIX")
    rotate.add_argument("--grace", type=_hours, default=0.0, metavar="HOURS", help="how long the old one goes on")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace, keys: ApiKeys) -> int:
    match options.command:
        case "create":
            key, text = keys.create(options.name, options.tier)
            print(text)
            hint(f"{key.name}: a {key.tier} key. This is the only time it is shown; send it as X-API-Key.")
        case "rotate":
            key, text = keys.rotate(options.key, grace_s=options.grace * 3600)
            print(text)
            ends = f"goes on for {options.grace:g} hours" if options.grace else "has ended"
            hint(f"{key.name}: replaced; the old key {ends}. The new one is shown only this time.")
        case "revoke":
            for key in keys.revoke(options.key):
                hint(f"{key.name} (cc_{key.prefix}_…): revoked; the service refuses it within 30 seconds.")
        case "list":
            print_table(keys.all())
    return 0


def print_table(keys: Sequence[ApiKey]) -> None:
    now = datetime.now(UTC).timestamp()
    lines = [("name", "tier", "key", "created", "last used", "state")]
    for key in keys:
        state = "in use" if key.ends_at is None else f"{'ended' if key.ends_at <= now else 'ends'} {_time(key.ends_at)}"
        lines.append((key.name, key.tier, f"cc_{key.prefix}_…", _time(key.created_at), _time(key.last_used_at), state))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _time(seconds: float | None) -> str:
    return "never" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%MZ")


def _hours(text: str) -> float:
    hours = float(text)
    if not (0 <= hours < math.inf):
        raise argparse.ArgumentTypeError("give a number of hours, 0 or more")
    return hours


def hint(text: str) -> None:
    print(text, file=sys.stderr)


def fail(text: str) -> int:
    print(f"api_keys.py: {text}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
