"""The URL index of a grid's source: where every page lies, on which site, and how long it is. Reads no text.

python -m ray_jobs.index CONFIG [key=value ...], CONFIG a grid's YAML. Run again, it goes on where it was stopped.
"""

from collections import Counter

from grid.spec import load_grid
from lethe.corpora.index import Index
from lethe.corpora.make import make_index
from lethe.program import parser, run_program
from ray_jobs.mirror import mirrored
from ray_jobs.units import each_unit


def summary(index: Index) -> str:
    """What a finished index holds, in a few lines."""
    manifest = index.manifest
    assert manifest is not None, f"{index.folder} is not finished"
    counts = Counter(manifest["counts"])
    parts = ("no_url", "no_host", "no_registrable_domain", "no_token_count", "bad_utf8")
    odd = ", ".join(f"{name} {counts[name]:,}" for name in parts if counts[name]) or "none"
    size = sum(file["bytes"] for file in manifest["files"].values())
    skipped = [f"skipped {name}: {problem}\n" for name, problem in manifest["skipped"].items()]
    return (
        f"{''.join(skipped)}{counts['rows']:,} rows, {counts['tokens']:,} tokens in {len(index.source.files):,} files\n"
        f"rows without a part: {odd}\n"
        f"index  {index.folder}  ({len(manifest['files']):,} files, {size / 1e6:,.1f} MB)"
    )


def main(argv: list[str]) -> int:
    """See the module's docstring."""
    arguments = parser(__doc__).parse_intermixed_args(argv)
    grid = load_grid(arguments.config, arguments.overrides)
    with mirrored(grid):
        print(summary(make_index(grid.source, grid.storage, grid.on_bad_file, each_unit)))
    return 0


if __name__ == "__main__":
    run_program(main)
