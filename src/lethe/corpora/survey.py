"""What a source holds of each domain, estimated before it is scanned, and whether that feeds the planned models.

From the URL index, which knows every page, and a sample of the text. What the rules keep is counted; duplicates are not
looked for and `max_host_share` is not applied, so a corpus can come out smaller. All tokens are the source's own
`token_count`.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lethe.corpora.domains import CorpusConfig
from lethe.corpora.prevalence import Sample, Share, share
from lethe.model.cost import TOKENS_A_PARAMETER

TOP_SITES = 10


@dataclass(frozen=True)
class Plan:
    """What is to be trained: parameters of each model, training tokens that a sequence reads of each corpus."""

    parameters: Mapping[str, int]
    tokens: Mapping[str, int]
    max_epochs: float


def report(
    sample: Sample, corpora: Mapping[str, CorpusConfig], rows: int, tokens: int, plan: Plan, files: Iterable[Path]
) -> dict[str, Any]:
    """The survey of a source with so many rows and tokens, as JSON; `files` are those of its index.

    domains[CORPUS]  documents and tokens: `share` of the source's with its interval `low`, `high`, and `available`;
                     train_tokens: available ones, at most the corpus's budget, less the share held out (an interval);
                     sampled: documents of it in the sample; rejects; sites: how many of the sample, and the `top` ones
    models[MODEL]    parameters; tokens, 20 a parameter; scan[CORPUS]: source tokens that hold as many training tokens
                     (null where none are in sight); epochs[CORPUS]: how often it would read what the source has
    plan[CORPUS]     tokens that a sequence reads, scan and epochs as above, verdict: filled, epochs (the grid allows
                     them) or short
    binds            the corpus that needs the longest scan
    """
    domains = {name: _domain(sample, name, corpora[name], rows, tokens) for name in corpora}
    known = _totals(files, {top["site"] for domain in domains.values() for top in domain["sites"]["top"]})
    for domain in domains.values():
        for top in domain["sites"]["top"]:
            top["source_documents"] = known.get(top["site"], 0)
    needs = {name: TOKENS_A_PARAMETER * count for name, count in plan.parameters.items()}
    models = {
        name: {
            "parameters": plan.parameters[name],
            "tokens": need,
            "scan": {corpus: _scan(need, domain) for corpus, domain in domains.items()},
            "epochs": {corpus: _epochs(need, domain) for corpus, domain in domains.items()},
        }
        for name, need in needs.items()
    }
    planned = {name: _planned(need, domains[name], plan.max_epochs) for name, need in plan.tokens.items()}
    return {
        "source": {"rows": rows, "tokens": tokens},
        "sample": {
            "rows": len(sample.group),
            "row_groups": len(sample.blocks),
            "of_row_groups": sample.groups,
            "interval": "95 %, Wilson with the effective size of a two-stage sample of row groups and rows in them",
        },
        "tokens_a_parameter": TOKENS_A_PARAMETER,
        "max_epochs": plan.max_epochs,
        "domains": domains,
        "binds": min(domains, key=lambda name: domains[name]["tokens"]["share"] * (1 - corpora[name].val_share)),
        "models": models,
        "plan": planned,
    }


def _domain(sample: Sample, name: str, corpus: CorpusConfig, rows: int, tokens: int) -> dict[str, Any]:
    member = sample.corpus == name
    documents, size = (share(sample, member, each) for each in (np.ones(len(member)), sample.tokens))
    held_out = 1 - corpus.val_share
    budget = math.inf if corpus.tokens is None else corpus.tokens
    train = {key: int(held_out * min(budget, tokens * getattr(size, key))) for key in Share._fields}
    return {
        "sampled": int(member.sum()),
        "documents": _estimate(documents, rows),
        "tokens": _estimate(size, tokens),
        "val_share": corpus.val_share,
        "train_tokens": train,
        "rejects": dict(sample.rejects[name]),
        "sites": _sites(sample, member),
    }


def _estimate(found: Share, whole: int) -> dict[str, Any]:
    available = {key: round(whole * value) for key, value in found._asdict().items()}
    return {"share": found.value, "low": found.low, "high": found.high, "available": available}


def _sites(sample: Sample, member: np.ndarray) -> dict[str, Any]:
    """How many sites the sample's pages of a domain lie on, and those that hold the most of its tokens."""
    weighed: Counter[str] = Counter()
    for site, size in zip(sample.site[member], (sample.weight * sample.tokens)[member], strict=True):
        weighed[site] += size
    total = sum(weighed.values())
    ordered = sorted(weighed.items(), key=lambda item: (-item[1], item[0]))
    top = [{"site": site, "share": size / total} for site, size in ordered[:TOP_SITES] if total]
    return {"sampled": len(weighed), "top": top, "top_share": sum(site["share"] for site in top)}


def _totals(files: Iterable[Path], wanted: set[str]) -> dict[str, int]:
    """How many pages of the whole source lie on each of these sites, from its index."""
    names, found = pa.array(sorted(wanted), pa.string()), Counter[str]()
    for path in files:
        for batch in pq.ParquetFile(path).iter_batches(1 << 16, columns=["registrable_domain", "host"]):
            site = pc.fill_null(pc.coalesce(batch["registrable_domain"], batch["host"]), "")
            for count in pc.value_counts(site.filter(pc.is_in(site, names))).to_pylist():
                found[count["values"]] += count["counts"]
    return dict(found)


def _scan(need: int, domain: Mapping[str, Any]) -> dict[str, int | None]:
    """Source tokens that hold `need` training tokens of a domain: least where the domain's share is highest."""
    tokens = domain["tokens"]
    held_out = 1 - domain["val_share"]
    shares = {"tokens": tokens["share"], "low": tokens["high"], "high": tokens["low"]}
    return {key: math.ceil(need / (held_out * part)) if part else None for key, part in shares.items()}


def _epochs(need: int, domain: Mapping[str, Any]) -> float | None:
    have = domain["train_tokens"]["value"]
    return need / have if have else None


def _planned(need: int, domain: Mapping[str, Any], max_epochs: float) -> dict[str, Any]:
    epochs = _epochs(need, domain)
    if epochs is None or epochs > max_epochs:
        verdict = "short"
    else:
        verdict = "filled" if epochs <= 1 else "epochs"
    return {"tokens": need, "scan": _scan(need, domain), "epochs": epochs, "verdict": verdict}
