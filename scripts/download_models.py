"""Fetches model weights, verifies and converts them: download_models.py [NAME ...]

Without a name: the default set, which is BiRefNet (general beside a GPU, lite without one), MobileSAM and LaMa. ``all``
is every variant. A broken download resumes. Exit codes: 0 all is well, 1 something is wrong, 2 usage, 3 no connection.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.config import Settings  # noqa: E402
from pipeline.errors import ModelNotLoaded, ModelUnavailable  # noqa: E402
from pipeline.models.download import DownloadError, Patience, Progress  # noqa: E402
from pipeline.models.files import only_writer, part_of  # noqa: E402
from pipeline.models.install import install, install_custom, install_file  # noqa: E402
from pipeline.models.weights import verify_weights  # noqa: E402
from pipeline.models.zoo import STAND_INS, VARIANTS, Variant, default_names, resolve  # noqa: E402

OK, WRONG, USAGE, OFFLINE = 0, 1, 2, 3
LINE_EVERY_S = 10.0


def main(arguments: Sequence[str] | None = None, *, patience: Patience | None = None) -> int:
    options = parse(arguments)
    from_here = options.from_file or options.custom
    if from_here and (len(options.names) != 1 or options.names == ["all"]):
        return fail("--from and --custom need exactly one NAME.", USAGE)
    looking = options.list or options.verify
    try:
        variants = wanted(options.names or (["all"] if looking else []), has_gpu=options.gpu)
    except ModelUnavailable as error:
        return fail(error.detail, USAGE)
    try:
        models_dir: Path = options.models_dir or ROOT / Settings(_env_file=ROOT / ".env").models_dir
    except ValidationError as error:
        names = ", ".join(str(problem["loc"][0]).upper() for problem in error.errors())
        return fail(f"the environment or .env holds values that cannot be used: {names}", WRONG)
    if options.list:
        print_table(variants, models_dir)
        return OK
    if options.verify:
        return verify(variants, models_dir, strict=bool(options.names))
    try:
        with only_writer(models_dir) as free:
            if not free:
                return fail(f"another download into {models_dir} is running.", WRONG)
            if from_here:
                return take_file(variants[0], models_dir, options)
            return fetch_all(variants, models_dir, trust_present=options.if_missing, patience=patience)
    except OSError as error:
        return fail(f"{models_dir}: {error.strerror or error}", WRONG)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all, {', '.join([*VARIANTS, *STAND_INS])}")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--list", action="store_true", help="show every variant and what is there, and fetch nothing")
    action.add_argument("--verify", action="store_true", help="check the hashes of what is there, and fetch nothing")
    action.add_argument("--from", dest="from_file", type=Path, metavar="FILE", help="take a published file from here")
    action.add_argument("--custom", type=Path, metavar="FILE", help="take your own weights; needs allow_unpinned later")
    parser.add_argument("--models-dir", type=Path, help="where files go; MODELS_DIR or models unless given")
    parser.add_argument("--if-missing", action="store_true", help="leave unchecked what is there: loading checks it")
    flavour = parser.add_mutually_exclusive_group()
    flavour.add_argument("--gpu", action="store_true", default=None, help="the default set is that of a GPU")
    flavour.add_argument("--cpu", action="store_false", dest="gpu", help="the default set is that of a CPU")
    return parser.parse_args(arguments)


def wanted(names: Sequence[str], *, has_gpu: bool | None) -> list[Variant]:
    """The variants that ``names`` mean, each once. Says which stand in for another."""
    if not names:
        names = default_names(has_gpu=has_nvidia_driver() if has_gpu is None else has_gpu)
    elif "all" in names:
        names = list(VARIANTS)
    for name in names:
        if stand_in := STAND_INS.get(name):
            print(f"{name}: {stand_in.reason} '{stand_in.variant}' stands in for it.")
    return list({variant.name: variant for variant in map(resolve, names)}.values())


def has_nvidia_driver() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def fetch_all(variants: Sequence[Variant], models_dir: Path, *, trust_present: bool, patience: Patience | None) -> int:
    code = OK
    for variant in variants:
        target = models_dir / variant.file_name
        if trust_present and target.is_file():
            continue
        total = variant.weights.size_bytes
        if not target.exists():
            print(f"{variant.name}: fetching {total / 1e6:.0f} MB from {variant.weights.url}", flush=True)
        # disable=None: no bar in a log file, but a line now and then.
        with tqdm(total=total, desc=variant.name, unit="B", unit_scale=True, disable=None, leave=False) as bar:
            progress = lines(variant.name, total) if bar.disable else partial(advance, bar)
            try:
                outcome = install(variant, models_dir, patience=patience, progress=progress)
            except DownloadError as error:
                bar.close()
                why = "no connection" if error.offline else "not one address gave the right file"
                fail(f"{variant.name}: {why}.\n{error}\n{error.advice}", WRONG)
                if error.offline:  # the others would only make it longer
                    return OFFLINE
                code = WRONG
                continue
            except ModelNotLoaded as error:
                bar.close()
                code = fail(f"{variant.name}: {error.detail}", WRONG)
                continue
        print(f"{variant.name}: {'already there' if outcome == 'there' else outcome}, verified: {target}")
    return code


def advance(bar: tqdm[NoReturn], done: int) -> None:
    bar.update(done - bar.n)


def lines(name: str, total: int) -> Progress:
    """Prints how many of ``total`` bytes are there, at most every ``LINE_EVERY_S``."""
    last = time.monotonic()

    def tell(done: int) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            print(f"{name}: {done / 1e6:.0f} of {total / 1e6:.0f} MB", flush=True)

    return tell


def take_file(variant: Variant, models_dir: Path, options: argparse.Namespace) -> int:
    """Installs a file from this machine."""
    try:
        if options.custom:
            found = install_custom(variant, models_dir, options.custom)
            print(f"{found.path}: answers will name {found.model_version}. It loads only with allow_unpinned: true.")
        else:
            install_file(variant, models_dir, options.from_file)
            print(f"{variant.name}: verified: {models_dir / variant.file_name}")
    except FileNotFoundError as error:
        return fail(f"there is no {error.filename}", WRONG)
    except ModelNotLoaded as error:
        return fail(error.detail, WRONG)
    return OK


def verify(variants: Sequence[Variant], models_dir: Path, *, strict: bool) -> int:
    """Hashes what is there. A variant that is missing is wrong only if it was asked for by name."""
    code = OK
    for variant in variants:
        paths = [models_dir / name for name in (variant.file_name, variant.unpinned_file_name)]
        present = [path for path in paths if path.exists()]
        if not present and strict:
            code = fail(f"{variant.name}: missing: {paths[0]}", WRONG)
        for path in present:
            try:
                found = verify_weights(path, variant, allow_unpinned=True)
            except ModelNotLoaded as error:
                code = fail(f"{variant.name}: {error.detail}", WRONG)
            else:
                print(f"{variant.name}: {found.origin}, SHA-256 as recorded: {path}")
        for name in {variant.file_name, variant.download_name}:
            if part_of(models_dir / name).exists():
                print(f"{variant.name}: unfinished, resumes when fetched: {part_of(models_dir / name)}")
    return code


def print_table(variants: Sequence[Variant], models_dir: Path) -> None:
    print(f"{'name':<11} {'there':<9} {'MB':>5}  {'input':<10} {'backbone':<10} {'licence':<42} published as")
    for variant in variants:
        there = "official" if (models_dir / variant.file_name).is_file() else ""
        there = there or ("unpinned" if (models_dir / variant.unpinned_file_name).is_file() else "-")
        weights = variant.weights
        size = "any" if variant.input_size_hw is None else "{}x{}".format(*variant.input_size_hw)
        print(
            f"{variant.name:<11} {there:<9} {weights.size_bytes / 1e6:>5.0f}  {size:<10} {variant.backbone:<10} "
            f"{weights.license:<42} {weights.repo} {weights.file} @ {weights.revision[:12]}"
        )
    for name, stand_in in STAND_INS.items():
        print(f"{name:<11} is {stand_in.variant}: {stand_in.reason}")


def fail(text: str, code: int) -> int:
    print(f"download_models.py: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(fail("stopped; the next run resumes.", 130))
