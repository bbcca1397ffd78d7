"""Make the token shards of a grid: analyse vocabulary sizes, train the tokenizer, encode the corpora.

The corpora are extracted first where they are missing. What is finished is not made again.
"""

import json
import os

from grid.spec import load_grid
from lethe.program import parser, run_program
from lethe.tokens.meta import SPLITS


def main(argv: list[str]) -> int:
    """See the module's docstring."""
    given = parser(__doc__).parse_intermixed_args(argv)
    grid = load_grid(given.config, given.overrides)
    from lethe.tokens.report import embedding_table, table
    from ray_jobs.prepare import prepare

    data = prepare(grid)
    tokenizer = data.tokenizer_path.parent
    report = json.loads((tokenizer / "report.json").read_bytes())
    print(table(report["analysis"]))
    print(f"\n{embedding_table({name: report['models'][name] for name in grid.models})}")
    print(f"\nrecommended: {report['recommendation']['reason']}\n")
    for corpus in data.corpora:
        print(f"{corpus}: {', '.join(f'{data.split(corpus, split).tokens:,} {split} tokens' for split in SPLITS)}")
    print(f"tokenizer  {os.path.relpath(tokenizer)}\ntokens     {os.path.relpath(data.root)}")
    print(f"picture    {os.path.relpath(tokenizer / 'report.html')}")
    return 0


if __name__ == "__main__":
    run_program(main)
