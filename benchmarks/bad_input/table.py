"""All cases, and why no program of ours can meet the rest of the catalogue."""

from benchmarks.bad_input import data_sets, grids, reports, sources, stages, tokens, tracking

CASES = [case for part in (grids, sources, data_sets, tokens, stages, tracking, reports) for case in part.CASES]
NOT_MET = {
    34: "positions are rotations, computed and not looked up: no context is over any number of them",
    36: "no field says how wide an id is: shards take four bytes where 65,536 ids are not enough",
    47: "a corpus is words, thresholds or a data set: it has no field in which to name another",
}
