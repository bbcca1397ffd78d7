"""datatrove's DocumentTokenizer, run by the Python of its own environment: a line of JSON in, a line of JSON out.

In: `{"source": FILE, "tokenizer": tokenizer.json, "folder": FOLDER}`; out: the CPU-seconds, and the file of ids in
FOLDER. Documents are not shuffled, which favours it, and ours are not.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its better setting


def main() -> None:
    """Answer until the input ends."""
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.tokens import DocumentTokenizer
    from loguru import logger

    logger.remove()
    for line in sys.stdin:
        job = json.loads(line)
        source = Path(job["source"])
        reader = ParquetReader(str(source.parent), glob_pattern=source.name)
        tokenizer = DocumentTokenizer(job["folder"], job["tokenizer"], eos_token="<eos>", shuffle_documents=False)
        _ = tokenizer.tokenizer  # loads it
        start = time.process_time()
        tokenizer.run(reader.run())
        seconds = time.process_time() - start
        (ids,) = Path(job["folder"]).glob("*.ds")
        print(json.dumps({"seconds": seconds, "ids": str(ids)}), flush=True)


if __name__ == "__main__":
    main()
